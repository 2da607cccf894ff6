"""Text to Arrow: `Extraction` reads a corpus at some sites of a frozen LLM and stores, or streams, the rows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from accelerate import PartialState
from datasets import Dataset, IterableDataset
from tqdm.auto import tqdm

from ...errors import BadInput
from ...frozen import FrozenLM, Provenance
from ...options import option
from ..bill import Bill
from ..chunked import SAMPLE_SIZE, ChunkedExtraction, Disk, ReadArguments, ahead
from ..corpus import Document
from ..documents import SPLITS, SplitArguments
from ..storage import Shard, features_of, write_layout
from .reader import ChunkReader
from .rows import Prepared, RowRules, prepare
from .stream import RowStream
from .table import ChunkWriter

logger = logging.getLogger(__name__)


@dataclass
class ExtractArguments(SplitArguments, ReadArguments):
    """What to read, and where to put it."""

    output_dir: str = option("outputs/activations", "Folder for the rows.")
    sites: list[str] = option(
        ["resid_post.2/3"],
        "Sites to read: embed, or resid_pre|resid_mid|resid_post|mlp_in|mlp_out|attn_out and .L: a layer, -1, or 2/3.",
    )
    positions_per_document: int = option(4, "Number of rows per document, each at its own position.")
    min_position: int = option(16, "First position that may be read; early ones are attention sinks.")
    position_step: int = option(
        1, "Distance between positions that may be read, counted from min_position; such as the length of a page."
    )
    continuation_length: int = option(8, "Number of true next tokens kept with each row.")
    storage_dtype: str = option(
        "auto",
        "Dtype of the stored vectors. auto: float16 for a half-precision model if every value fits, else float32.",
        ["auto", "float16", "float32"],
    )
    batch_size: int = option(32, "Number of documents per forward pass, of similar length.")
    documents_per_shard: int = option(512, "Number of documents per file: what a kill loses at most.")


class Extraction(ChunkedExtraction):
    """Rows of one corpus, read at some sites of one model; `arguments` are `ExtractArguments`."""

    RULES, UNIT = RowRules, "rows"
    CARD: ClassVar = ("consistency_lens.activations", "dataset_card_template.md")
    # Column -> its type and what it holds, for the card.
    COLUMNS: ClassVar = {
        "doc_id": ("int64", "number of the document in the corpus"),
        "input_ids": ("list of int32", "the context: all tokens up to and with the position that was read"),
        "continuation_ids": ("list of int32", "the tokens that really come next"),
        "position": ("int32", "P: index of the last of input_ids, counted from 0"),
    }
    arguments: ExtractArguments
    rules: RowRules
    sample: Sequence[Prepared]
    _fits: Callable[[Sequence[Prepared]], None] = staticmethod(lambda prepared: None)

    def require_request(self) -> None:
        features_of(self.sites, self.hidden_size, "float32", self.corpus.features)

    def prepare(self, documents: Sequence[Document]) -> dict[str, list[Prepared]]:
        return prepare(documents, self.tokenizer, self.rules)

    def reader(self, frozen: FrozenLM) -> ChunkReader:
        return ChunkReader(frozen, self.sites, self.arguments.batch_size)

    def require_each(self, fits: Callable[[Sequence[Prepared]], None]) -> None:
        """Have all documents looked at, by what raises where one does not fit: those that can be read twice now,
        before the first pass, which costs their tokenisation; those of a stream before they are read."""
        fits(self.sample)
        self._fits = fits
        if isinstance(self.corpus.source, Dataset):
            for _, documents in tqdm(
                self.corpus.chunks(SAMPLE_SIZE), "looking for long contexts", delay=3, leave=False
            ):
                for prepared in self.prepare(documents).values():
                    fits(prepared)

    def plan(self, provenance: Provenance) -> dict[str, Any]:
        found = super().plan(provenance) | {"keep_columns": list(self.corpus.features)}
        if found["position_step"] == 1:  # as before there were steps
            del found["position_step"]
        return found

    def amounts(self, model_dtype: torch.dtype) -> Bill:
        width, scale = 2 if self._wanted_dtype(model_dtype) == "float16" else 4, self.scale()
        positions = [int(position) for p in self.sample for position in p.positions]
        row_bytes = width * self.hidden_size * len(self.sites) + 12
        token_bytes = sum(4 * (position + 1 + self.rules.continuation_length) for position in positions)
        return Bill(
            documents=self.corpus.num_documents,
            rows=round(scale * len(positions)),
            bytes=round(scale * (len(positions) * row_bytes + token_bytes)),
            tokens=round(scale * sum(p.length for p in self.sample)),
        )

    def store(self, frozen: FrozenLM) -> None:
        state, dtype = PartialState(), self._wanted_dtype(frozen.dtype)
        self._store_missing(frozen, dtype)
        if dtype == "float16" and any(note.dtype == "float32" for note in self.folder.notes()):
            # Some value did not fit. All rows have one dtype: the shards that would have fitted are made again.
            state.wait_for_everyone()
            if state.is_main_process:
                logger.warning("Some activations do not fit into float16: all are stored as float32.")
                self.folder.forget([note for note in self.folder.notes() if note.dtype == "float16"])
            state.wait_for_everyone()
            self._store_missing(frozen, "float32")

    def laid_out(self, shards: Sequence[Shard], dtype: str) -> list[str]:
        features = features_of(self.sites, self.hidden_size, dtype, self.corpus.features)
        return write_layout(self.folder.path, features, shards)

    def more_facts(self, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """The columns."""
        kind = f"{self.hidden_size} x {metadata['dtype']}"
        columns = self.COLUMNS | {site: (kind, f"the activation at {site} and P, as it was") for site in self.sites}
        columns |= {name: (str(t), "carried along from the corpus") for name, t in self.corpus.features.items()}
        return {"columns": [{"name": n, "type": t, "meaning": meaning} for n, (t, meaning) in columns.items()]}

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

    def _wanted_dtype(self, model_dtype: torch.dtype) -> str:
        if self.arguments.storage_dtype != "auto":
            return self.arguments.storage_dtype
        return "float16" if model_dtype.itemsize == 2 else "float32"

    def _store_missing(self, frozen: FrozenLM, dtype: str) -> None:
        """Compute this process's share of the chunks that have no note yet, while the disk is written beside it."""
        features = features_of(self.sites, self.hidden_size, dtype, self.corpus.features)
        writer = ChunkWriter(self.folder.path, features, self.rules.continuation_length, self.sites, frozen)
        reader, meter = self.reader(frozen), self.meter()

        def prepared_chunks() -> Iterator[tuple[int, int, dict[str, list[Prepared]]]]:
            for index, documents in self.missing_chunks():
                prepared = self.prepare(documents)
                for own in prepared.values():
                    self._fits(own)
                yield index, len(documents), prepared

        with meter.bar, Disk() as disk:
            for index, count, prepared in ahead(prepared_chunks()):
                # Split by split, so that a stream of one of them reads the very same batches.
                parts = {split: (own, reader.read(own, meter.advance)) for split, own in prepared.items()}
                meter.bar.update(count - sum(len(own) for own in prepared.values()))
                disk.write(writer.store, index, count, parts)
            disk.wait()
        PartialState().wait_for_everyone()
