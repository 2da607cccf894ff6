"""Text to Arrow: `Extraction` reads a corpus at some sites of a frozen LLM and stores, or streams, the rows."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from accelerate import PartialState
from datasets import Dataset, IterableDataset
from tqdm.auto import tqdm
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from ...errors import BadInput
from ...frozen import FrozenLM, Provenance
from ...frozen.anatomy.parts import longest_context
from ...options import option
from ..bill import Bill
from ..chunked import ChunkedExtraction, ahead, room_of
from ..corpus import Corpus
from ..finish import finish
from ..storage import ChunkNote, features_of
from .reader import ChunkReader
from .rows import SPLITS, Prepared, RowRules, prepare
from .stream import RowStream
from .table import ChunkWriter

logger = logging.getLogger(__name__)

SAMPLE_SIZE = 256


@dataclass
class ExtractArguments:
    """What to read, and where to put it."""

    output_dir: str = option("outputs/activations", "Folder for the rows.")
    sites: list[str] = option(
        ["resid_post.2/3"],
        "Sites to read: embed, or resid_pre|resid_mid|resid_post|mlp_in|mlp_out|attn_out and .L: a layer, -1, or 2/3.",
    )
    positions_per_document: int = option(4, "Number of rows per document, each at its own position.")
    min_position: int = option(16, "First position that may be read; early ones are attention sinks.")
    max_length: int | None = option(
        None, "Number of tokens after which a document is cut. Default: 512, or the model's context."
    )
    continuation_length: int = option(8, "Number of true next tokens kept with each row.")
    validation_fraction: float = option(0.05, "Share of documents held out for choosing.")
    test_fraction: float = option(0.05, "Share of documents held out for reporting.")
    storage_dtype: str = option(
        "auto",
        "Dtype of the stored vectors. auto: float16 for a half-precision model if every value fits, else float32.",
        ["auto", "float16", "float32"],
    )
    batch_size: int = option(32, "Number of documents per forward pass, of similar length.")
    documents_per_shard: int = option(512, "Number of documents per file: what a kill loses at most.")
    seed: int = option(0, "Seed of the split and of the positions.")
    resume: bool = option(False, "Resume an interrupted extraction in output_dir.")
    overwrite: bool = option(False, "Overwrite an extraction in output_dir.")


def rules_of(given: ExtractArguments, model_length: int) -> RowRules:
    """How rows are taken from a document, for a model that takes so many tokens."""
    return RowRules(
        min_position=given.min_position,
        max_length=room_of(given.max_length, model_length),
        positions_per_document=given.positions_per_document,
        continuation_length=given.continuation_length,
        validation_fraction=given.validation_fraction,
        test_fraction=given.test_fraction,
        seed=given.seed,
    )


class Extraction(ChunkedExtraction):
    """Rows of one corpus, read at some sites of one model.

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
        arguments: ExtractArguments,
        command: str = "",
    ) -> None:
        super().__init__(corpus, tokenizer, config, arguments, command)
        self.arguments = arguments
        self.rules: RowRules = rules_of(arguments, longest_context(config))
        features_of(self.sites, self.hidden_size, "float32", corpus.features)
        self._fits: Callable[[Sequence[Prepared]], None] = lambda prepared: None
        self.sample, seen = self._first_rows()
        self.sample_share = len(self.sample) / seen
        self.require_vocabulary(max(int(p.ids.max()) for p in self.sample))

    def _first_rows(self) -> tuple[list[Prepared], int]:
        """The first documents with one that is long enough, and how many documents it took to find it."""
        chunks = tqdm(self.corpus.chunks(SAMPLE_SIZE), "looking for long enough texts", delay=3, leave=False)
        for index, documents in chunks:
            found = prepare(documents, self.tokenizer, self.rules)
            if sample := [p for prepared in found.values() for p in prepared]:
                return sample, index * SAMPLE_SIZE + len(documents)
        raise BadInput(
            "min_position",
            self.rules.min_position,
            "Use a smaller --min_position, longer texts, or --sample_by paragraph for a text file.",
            why=f"no document has the {self.rules.min_position + 2} tokens that it takes",
        )

    def require_each(self, fits: Callable[[Sequence[Prepared]], None]) -> None:
        """Have all documents looked at, by what raises where one does not fit: those that can be read twice now,
        before the first pass, which costs their tokenisation; those of a stream before they are read."""
        fits(self.sample)
        self._fits = fits
        if isinstance(self.corpus.source, Dataset):
            for _, documents in tqdm(
                self.corpus.chunks(SAMPLE_SIZE), "looking for long contexts", delay=3, leave=False
            ):
                for prepared in prepare(documents, self.tokenizer, self.rules).values():
                    fits(prepared)

    def plan(self, provenance: Provenance) -> dict[str, Any]:
        return {
            **asdict(self.rules),
            **self.corpus.identity,
            "max_documents": self.corpus.arguments.max_documents,
            "keep_columns": list(self.corpus.features),
            "storage_dtype": self.arguments.storage_dtype,
            "documents_per_shard": self.arguments.documents_per_shard,
            **{name: value for name, value in provenance.to_dict().items() if name in Provenance.BINDING},
        }

    def bill(self, frozen: FrozenLM) -> Bill:
        """What the run will cost, from the first documents and the speed of a few of their batches."""
        reader = ChunkReader(frozen, self.sites, self.arguments.batch_size)
        few = self.sample[: 2 * self.arguments.batch_size]
        reader.read(few)  # the first pass is slower than all others
        start = time.perf_counter()
        reader.read(few)
        seconds = time.perf_counter() - start
        width = 2 if self._wanted_dtype(frozen) == "float16" else 4
        return Bill.estimate(
            self.sample,
            self.sample_share,
            self.corpus.num_documents,
            bytes_per_row=width * self.hidden_size * len(self.sites),
            continuation_length=self.rules.continuation_length,
            tokens_per_second=sum(p.length for p in few) / seconds * PartialState().num_processes,
            folder=self.folder.path,
            stored_bytes=self.folder.stored_bytes,
        )

    def store(self, frozen: FrozenLM) -> None:
        state, dtype = PartialState(), self._wanted_dtype(frozen)
        self._store_missing(frozen, dtype)
        if dtype == "float16" and any(note.dtype == "float32" for note in self.folder.notes()):
            # Some value did not fit. All rows have one dtype: the shards that would have fitted are made again.
            state.wait_for_everyone()
            if state.is_main_process:
                logger.warning("Some activations do not fit into float16: all are stored as float32.")
                self.folder.forget([note for note in self.folder.notes() if note.dtype == "float16"])
            state.wait_for_everyone()
            self._store_missing(frozen, "float32")

    def finish(self, notes: list[ChunkNote], provenance: Provenance) -> None:
        finish(self, notes, provenance)

    def stream(
        self,
        frozen: FrozenLM,
        split: str = "train",
        dtype: str = "float32",
        within: Callable[[Callable[[], Any]], Any] = lambda read: read(),
    ) -> IterableDataset:
        """The same rows in the same order, computed while they are consumed and never stored.

        Shuffle with `.shuffle(seed, buffer_size)`, as any stream.

        Args:
            frozen: the model.
            split: which documents.
            dtype: of the vectors, `float16` or `float32`.
            within: calls what reads; `LensTrainer.as_one` where the weights are spread over processes.
        """
        if split not in SPLITS:
            raise BadInput("split", split, f"Use one of {', '.join(SPLITS)}.")
        if dtype not in ("float16", "float32"):
            raise BadInput("dtype", dtype, "Use float16 or float32: Arrow has no other.")
        self.require_same_model(frozen)
        features = features_of(self.sites, self.hidden_size, dtype, self.corpus.features)
        return IterableDataset.from_generator(RowStream(self, frozen, split, features, within), features=features)

    def _wanted_dtype(self, frozen: FrozenLM) -> str:
        if self.arguments.storage_dtype != "auto":
            return self.arguments.storage_dtype
        return "float16" if frozen.dtype.itemsize == 2 else "float32"

    def _store_missing(self, frozen: FrozenLM, dtype: str) -> None:
        """Compute this process's share of the chunks that have no note yet, while the disk is written beside it."""
        features = features_of(self.sites, self.hidden_size, dtype, self.corpus.features)
        writer = ChunkWriter(self.folder.path, features, self.rules.continuation_length, self.sites, frozen)
        reader = ChunkReader(frozen, self.sites, self.arguments.batch_size)

        def prepared_chunks() -> Iterator[tuple[int, int, dict[str, list[Prepared]]]]:
            for index, documents in self.missing_chunks():
                prepared = prepare(documents, self.tokenizer, self.rules)
                for own in prepared.values():
                    self._fits(own)
                yield index, len(documents), prepared

        meter = self.meter()

        def advance(batch: list[Prepared]) -> None:
            meter.advance([p.length for p in batch])

        with meter.bar, ThreadPoolExecutor(1) as disk:
            writing: Future[None] | None = None
            for index, count, prepared in ahead(prepared_chunks()):
                # Split by split, so that a stream of one of them reads the very same batches.
                parts = {split: (own, reader.read(own, advance)) for split, own in prepared.items()}
                meter.bar.update(count - sum(len(own) for own in prepared.values()))
                if writing:
                    writing.result()
                writing = disk.submit(writer.store, index, count, parts)
            if writing:
                writing.result()
        PartialState().wait_for_everyone()
