"""Text to blocks: `BlockExtraction` reads all tokens at many sites of a frozen LLM, and stores or streams them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from accelerate import PartialState

from ...errors import BadInput
from ...frozen import FrozenLM, Provenance
from ...options import option
from ..chunked import ChunkedExtraction, Disk, ReadArguments, ahead
from ..corpus import Document
from ..documents import SPLITS, SplitArguments, Tokens
from ..statistics import SiteStatistics
from ..storage import ChunkNote, Shard
from .bill import BlockBill
from .buffers import Buffers
from .data import KIND
from .documents import BlockRules, packed, prepare
from .encoding import stored_dtype
from .reader import BlockReader
from .stream import BlockStream, TokenizedCorpus
from .writer import BlockWriter


@dataclass
class BlockArguments(SplitArguments, ReadArguments):
    """What to read at all positions, and where to put it."""

    output_dir: str = option("outputs/blocks", "Folder for the blocks.")
    sites: list[str] = option(
        ["resid_mid.*", "mlp_out.*"],
        "Sites to read: embed, or a stage and .L (a layer, -1, 2/3, or * for all layers).",
    )
    min_position: int = option(1, "First position that is kept (default 1: position 0 is an attention sink).")
    tokens_per_block: int = option(4096, "Tokens of a block at most; some blocks are shuffled together.")
    storage_dtype: str = option(
        "auto",
        "Dtype of the stored activations. auto: the model's own. int8 has a scale per channel and block.",
        ["auto", "float16", "bfloat16", "float32", "int8"],
    )
    batch_size: int = option(16, "Documents per forward pass, of similar length.")
    documents_per_shard: int = option(256, "Documents of a chunk: what is lost at most when killed.")


class BlockExtraction(ChunkedExtraction):
    """All tokens of one corpus, read at some sites of one model; `arguments` are `BlockArguments`."""

    RULES, UNIT = BlockRules, "tokens"
    CARD: ClassVar = ("consistency_lens.activations.blocks", "blocks_card_template.md")
    arguments: BlockArguments
    rules: BlockRules
    sample: Sequence[Tokens]

    def require_request(self) -> None:
        if self.corpus.features:
            why = "tokens carry no columns; doc_id leads back to the document"
            raise BadInput("keep_columns", list(self.corpus.features), "Leave it out.", why=why)
        self.stored_dtype(self.config.get_text_config().dtype)

    def stored_dtype(self, model_dtype: torch.dtype) -> str:
        return stored_dtype(self.arguments.storage_dtype, model_dtype)

    def prepare(self, documents: Sequence[Document]) -> dict[str, list[Tokens]]:
        return prepare(documents, self.tokenizer, self.rules)

    def plan(self, provenance: Provenance) -> dict[str, Any]:
        return {"kind": KIND, **super().plan(provenance)}

    def amounts(self, model_dtype: torch.dtype) -> BlockBill:
        dtype, shape = self.stored_dtype(model_dtype), (len(self.sites), self.hidden_size)
        chunks = -(-(self.corpus.num_documents or 1000) // self.documents_per_shard)
        return BlockBill.of_blocks(
            self.sample, self.scale(), self.corpus.num_documents, self.rules, shape, dtype, chunks
        )

    def reader(self, frozen: FrozenLM) -> BlockReader:
        return BlockReader(frozen, self.sites, self.arguments.batch_size, self.rules.min_position)

    def store(self, frozen: FrozenLM) -> None:
        """Compute this process's share of the missing chunks block by block, while the disk is written beside it."""
        dtype, meter, reader = self.stored_dtype(frozen.dtype), self.meter(), self.reader(frozen)
        room = Buffers(2)  # a block that is read and one that is written; asked for anew, they leave holes in the heap

        def chunks() -> Iterator[tuple[int, int, list[tuple[str, list[Tokens]]]]]:
            for index, documents in self.missing_chunks():
                own = self.prepare(documents)
                blocks = [(split, own[split][block]) for split in own for block in packed(own[split], self.rules)]
                yield index, len(documents), blocks

        with meter.bar, Disk() as disk:
            for index, count, blocks in ahead(chunks()):
                writer = BlockWriter(self.folder.path, index, self.sites, dtype, self.rules.min_position)
                for split, documents in blocks:
                    values = reader.read(documents, reader.room_for(documents, room))
                    meter.advance(documents)
                    disk.write(writer.add, split, documents, values)  # so that two blocks are in memory at most
                    del values
                meter.bar.update(count - sum(len(documents) for _, documents in blocks))
                disk.write(writer.close, count, self.hidden_size)
            disk.wait()
        PartialState().wait_for_everyone()

    def laid_out(self, shards: Sequence[Shard], dtype: str) -> list[str]:
        return list(SPLITS)

    def more_metadata(self, notes: Sequence[ChunkNote], statistics: Mapping[str, SiteStatistics]) -> dict[str, Any]:
        own: dict[str, Any] = {"kind": KIND, "hidden_size": self.hidden_size}
        if notes[0].dtype == "int8":
            # Of the variance over training tokens, what rounding to int8 has cost at each site.
            lost = np.sum([note.arrays(self.folder.path)["lost"] for note in notes], axis=0)
            variances = [max(statistics[site].squares.sum(), 1e-300) for site in self.sites]
            own["lost_to_int8"] = dict(zip(self.sites, (lost / variances).tolist(), strict=True))
        return own

    def more_facts(self, metadata: Mapping[str, Any]) -> dict[str, Any]:
        return {"rules": metadata["rules"], "lost_to_int8": metadata.get("lost_to_int8", {})}

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
        if self.corpus.num_documents is None:
            fix = "Say how many documents with --max_documents, or leave out --streaming."
            why = "shuffled tokens are counted first, and a stream has no end"
            raise BadInput("max_documents", None, fix, why)
        texts = TokenizedCorpus(self.rules)
        for _, documents in self.corpus.chunks(self.documents_per_shard):
            for split, own in self.prepare(documents).items():
                texts.add(split, own)
        return BlockStream(texts, self.reader(frozen), within, {"corpus": self.corpus.identity})
