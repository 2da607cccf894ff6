"""Text to blocks: `BlockExtraction` reads all tokens at many sites of a frozen LLM, and stores or streams them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from accelerate import PartialState
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from ...errors import BadInput
from ...frozen import FrozenLM, Provenance
from ...frozen.anatomy.parts import longest_context
from ...options import option
from ..chunked import ChunkedExtraction, ahead, room_of
from ..corpus import Corpus
from ..storage import ChunkNote
from .bill import BlockBill
from .documents import BlockRules, Tokens, packed, prepare
from .encoding import stored_dtype
from .finish import KIND, finish
from .reader import BlockReader
from .stream import BlockStream, TokenizedCorpus
from .writer import BlockWriter

SAMPLE_SIZE = 256


@dataclass
class BlockArguments:
    """What to read at all positions, and where to put it."""

    output_dir: str = option("outputs/blocks", "Folder for the blocks.")
    sites: list[str] = option(
        ["resid_mid.*", "mlp_out.*"],
        "Sites to read: embed, or a stage and .L (a layer, -1, 2/3, or * for all layers).",
    )
    min_position: int = option(1, "First position that is kept (default 1: position 0 is an attention sink).")
    max_length: int | None = option(None, "Tokens of a document at most. Default: 512, or the model's context.")
    tokens_per_block: int = option(4096, "Tokens of a block at most; some blocks are shuffled together.")
    validation_fraction: float = option(0.05, "Share of documents held out for choosing.")
    test_fraction: float = option(0.05, "Share of documents held out for reporting.")
    storage_dtype: str = option(
        "auto",
        "Dtype of the stored activations. auto: the model's own. int8 has a scale per channel and block.",
        ["auto", "float16", "bfloat16", "float32", "int8"],
    )
    batch_size: int = option(16, "Documents per forward pass, of similar length.")
    documents_per_shard: int = option(256, "Documents of a chunk: what is lost at most when killed.")
    seed: int = option(0, "Seed of the split.")
    resume: bool = option(False, "Go on with an interrupted extraction in output_dir.")
    overwrite: bool = option(False, "Replace an extraction in output_dir.")


class BlockExtraction(ChunkedExtraction):
    """All tokens of one corpus, read at some sites of one model.

    Args:
        corpus: the texts.
        tokenizer: of the model.
        config: of the model.
        arguments: what to read.
        command: how the run was started, for the card.
    """

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: PreTrainedTokenizerBase,
        config: PreTrainedConfig,
        arguments: BlockArguments,
        command: str = "",
    ) -> None:
        super().__init__(corpus, tokenizer, config, arguments, command)
        self.arguments = arguments
        if corpus.features:
            why = "tokens carry no columns; doc_id leads back to the document"
            raise BadInput("keep_columns", list(corpus.features), "Leave it out.", why=why)
        stored_dtype(arguments.storage_dtype, config.get_text_config().dtype)
        self.rules: BlockRules = BlockRules(
            min_position=arguments.min_position,
            max_length=room_of(arguments.max_length, longest_context(config)),
            tokens_per_block=arguments.tokens_per_block,
            validation_fraction=arguments.validation_fraction,
            test_fraction=arguments.test_fraction,
            seed=arguments.seed,
        )
        self.sample, seen = self._first_documents()
        self.sample_share = len(self.sample) / seen
        self.require_vocabulary(max(int(document.ids.max()) for document in self.sample))

    def _first_documents(self) -> tuple[list[Tokens], int]:
        """The first documents with one of which a token is kept, and how many documents it took to find it."""
        for index, documents in self.corpus.chunks(SAMPLE_SIZE):
            found = prepare(documents, self.tokenizer, self.rules)
            if sample := [document for prepared in found.values() for document in prepared]:
                return sample, index * SAMPLE_SIZE + len(documents)
        fix = "Use a smaller --min_position or longer texts."
        why = f"no document has the {self.rules.min_position + 1} tokens that it takes"
        raise BadInput("min_position", self.rules.min_position, fix, why=why)

    def plan(self, provenance: Provenance) -> dict[str, Any]:
        return {
            "kind": KIND,
            **asdict(self.rules),
            **self.corpus.identity,
            "max_documents": self.corpus.arguments.max_documents,
            "storage_dtype": self.arguments.storage_dtype,
            "documents_per_shard": self.documents_per_shard,
            **{name: value for name, value in provenance.to_dict().items() if name in Provenance.BINDING},
        }

    def bill(self, frozen: FrozenLM) -> BlockBill:
        """What the run will cost, from the first documents and the speed of a few of their batches."""
        reader, few = self.reader(frozen), self.sample[: 2 * self.arguments.batch_size]
        reader.read(few)  # the first pass is slower than all others
        start = time.perf_counter()
        reader.read(few)
        seconds = time.perf_counter() - start
        return BlockBill.of_blocks(
            self.sample,
            self.sample_share,
            self.corpus.num_documents,
            self.rules,
            (len(self.sites), self.hidden_size),
            stored_dtype(self.arguments.storage_dtype, frozen.dtype),
            self.documents_per_shard,
            tokens_per_second=sum(len(d.ids) for d in few) / seconds * PartialState().num_processes,
            folder=self.folder.path,
            stored_bytes=self.folder.stored_bytes,
        )

    def reader(self, frozen: FrozenLM) -> BlockReader:
        """Reads documents of this extraction."""
        return BlockReader(frozen, self.sites, self.arguments.batch_size, self.rules.min_position)

    def store(self, frozen: FrozenLM) -> None:
        """Compute this process's share of the missing chunks block by block, while the disk is written beside it."""
        dtype, meter = stored_dtype(self.arguments.storage_dtype, frozen.dtype), self.meter()
        reader = self.reader(frozen)

        def chunks() -> Iterator[tuple[int, int, list[tuple[str, list[Tokens]]]]]:
            for index, documents in self.missing_chunks():
                yield index, len(documents), blocks_of(prepare(documents, self.tokenizer, self.rules), self.rules)

        with meter.bar, ThreadPoolExecutor(1) as disk:
            writing: Future[None] | None = None
            for index, count, blocks in ahead(chunks()):
                writer = BlockWriter(self.folder.path, index, self.sites, dtype, self.rules.min_position)
                for split, documents in blocks:
                    values = reader.read(documents)
                    meter.advance([len(document.ids) for document in documents])
                    if writing:
                        writing.result()  # so that two blocks are in memory at most
                    writing = disk.submit(writer.add, split, documents, values)
                    del values
                if writing:
                    writing.result()
                meter.bar.update(count - sum(len(documents) for _, documents in blocks))
                writing = disk.submit(writer.close, count, self.hidden_size)
            if writing:
                writing.result()
        PartialState().wait_for_everyone()

    def finish(self, notes: list[ChunkNote], provenance: Provenance) -> None:
        finish(self, notes, provenance)

    def stream(
        self, frozen: FrozenLM, within: Callable[[Callable[[], Any]], Any] = lambda read: read()
    ) -> BlockStream:
        """The same blocks, computed when they are needed, on the model's device, and never stored.

        All documents are tokenised first; their ids, four bytes a token, wait in a temporary file.

        Args:
            frozen: the model.
            within: calls what reads; `LensTrainer.as_one` where the weights are spread over processes.
        """
        self.require_same_model(frozen)
        corpus = TokenizedCorpus.of(self.corpus, self.tokenizer, self.rules, self.documents_per_shard)
        return BlockStream(corpus, self.reader(frozen), frozen.provenance(*self.sites), within)


def blocks_of(prepared: dict[str, list[Tokens]], rules: BlockRules) -> list[tuple[str, list[Tokens]]]:
    """The blocks of one chunk, split by split."""
    return [
        (split, own[block])
        for split, own in prepared.items()
        for block in packed([len(document.ids) for document in own], rules)
    ]
