"""Text to Arrow: `Extraction` reads a corpus at some sites of a frozen LLM and stores, or streams, the rows.

The work is cut into chunks of consecutive documents. A chunk is computed the same way whoever does it and whenever, so
processes share chunks out, and a resumed run does those that are missing.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import IterableDataset
from tqdm.auto import tqdm
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from ..errors import BadInput
from ..frozen import FrozenLM, Provenance
from ..frozen.provenance import compare_fields
from ..frozen.sites import resolve_sites
from .bill import Bill
from .corpus import Corpus
from .finish import finish
from .reader import ChunkReader
from .rows import SPLITS, Prepared, RowRules, prepare
from .storage import (
    METADATA,
    PLAN,
    PROGRESS,
    ChunkNote,
    CorruptShard,
    clear,
    features_of,
    open_folder,
    write_json,
)
from .stream import RowStream
from .table import ChunkWriter

logger = logging.getLogger(__name__)

SAMPLE_SIZE = 256


@dataclass
class ExtractArguments:
    """What to read, and where to put it."""

    output_dir: str = field(default="outputs/activations", metadata={"help": "Folder for the rows."})
    sites: list[str] = field(
        default_factory=lambda: ["resid_post.2/3"],
        metadata={"help": "embed, or resid_pre|resid_post|mlp_in|mlp_out|attn_out and .L: a layer, -1, or 2/3."},
    )
    positions_per_document: int = field(default=4, metadata={"help": "Rows per document, each at its own position."})
    min_position: int = field(
        default=16, metadata={"help": "First position that may be read: early ones are attention sinks."}
    )
    max_length: int | None = field(
        default=None, metadata={"help": "Cut documents after so many tokens. Default: 512, or the model's context."}
    )
    continuation_length: int = field(default=8, metadata={"help": "True next tokens kept with each row."})
    validation_fraction: float = field(default=0.05, metadata={"help": "Share of documents held out for choosing."})
    test_fraction: float = field(default=0.05, metadata={"help": "Share of documents held out for reporting."})
    storage_dtype: str = field(
        default="auto",
        metadata={
            "help": "Of the vectors. auto: float16 for a half-precision model if every value fits, else float32.",
            "choices": ["auto", "float16", "float32"],
        },
    )
    batch_size: int = field(default=32, metadata={"help": "Documents per forward pass, of similar length."})
    documents_per_shard: int = field(
        default=512, metadata={"help": "Documents per file: what is lost at most when killed."}
    )
    seed: int = field(default=0, metadata={"help": "Of the split and of the positions."})
    resume: bool = field(default=False, metadata={"help": "Go on with an interrupted extraction in output_dir."})
    overwrite: bool = field(default=False, metadata={"help": "Replace an extraction in output_dir."})


class Extraction:
    """One corpus, read at some sites of one model.

    Made without the model's weights: all that can be wrong with the request is said before they are loaded.

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
        text_config = config.get_text_config()
        self.corpus, self.tokenizer, self.arguments, self.command = corpus, tokenizer, arguments, command
        self.folder = Path(arguments.output_dir)
        self.sites = [str(site) for site in resolve_sites(arguments.sites, text_config.num_hidden_layers)]
        self.hidden_size: int = text_config.hidden_size
        for name, value in [
            ("batch_size", arguments.batch_size),
            ("documents_per_shard", arguments.documents_per_shard),
        ]:
            if value < 1:
                raise BadInput(name, value, "Use 1 or more.")
        self.rules = self._rules(text_config.max_position_embeddings)
        features_of(self.sites, self.hidden_size, "float32", corpus.features)
        self.sample, seen = self._first_rows()
        self.sample_share = len(self.sample) / seen

    def _first_rows(self) -> tuple[list[Prepared], int]:
        """The first documents with one that is long enough, and how many documents it took to find it."""
        for index, documents in self.corpus.chunks(SAMPLE_SIZE):
            found = prepare(documents, self.tokenizer, self.rules)
            if sample := [p for prepared in found.values() for p in prepared]:
                return sample, index * SAMPLE_SIZE + len(documents)
        raise BadInput(
            "min_position",
            self.rules.min_position,
            "Use a smaller --min_position, longer texts, or --sample_by paragraph for a text file.",
            why=f"no document has the {self.rules.min_position + 2} tokens that it takes",
        )

    def _rules(self, model_length: int) -> RowRules:
        given = self.arguments
        if given.max_length is not None and given.max_length > model_length:
            raise BadInput("max_length", given.max_length, f"The model takes at most {model_length} tokens.")
        return RowRules(
            min_position=given.min_position,
            max_length=given.max_length or min(512, model_length),
            positions_per_document=given.positions_per_document,
            continuation_length=given.continuation_length,
            validation_fraction=given.validation_fraction,
            test_fraction=given.test_fraction,
            seed=given.seed,
        )

    def open(self) -> None:
        """Claim the output folder; call it before the weights are loaded, on every process."""
        if PartialState().is_main_process:
            open_folder(self.folder, self.arguments.resume, self.arguments.overwrite)
        PartialState().wait_for_everyone()

    def plan(self, provenance: Provenance) -> dict[str, Any]:
        """All that decides the rows: a resumed run has to agree with it."""
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
        width = 2 if self._first_dtype(frozen) == "float16" else 4
        return Bill.estimate(
            self.sample,
            self.sample_share,
            self.corpus.num_documents,
            bytes_per_row=width * self.hidden_size * len(self.sites),
            continuation_length=self.rules.continuation_length,
            tokens_per_second=sum(p.length for p in few) / seconds * PartialState().num_processes,
            folder=self.folder,
            stored_bytes=sum(shard.bytes for note in ChunkNote.all_in(self.folder) for shard in note.shards),
        )

    def run(self, frozen: FrozenLM) -> Path:
        """Compute what is missing and store it; returns the folder."""
        state = PartialState()
        provenance = frozen.provenance(*self.sites)
        if state.is_main_process:
            self._settle_plan(self.plan(provenance))
        state.wait_for_everyone()
        if (self.folder / METADATA).exists():
            logger.info("%s is complete: every shard is there and as written.", self.folder)
            return self.folder
        dtype = self._first_dtype(frozen)
        self._store_missing(frozen, dtype)
        if dtype == "float16" and any(note.dtype == "float32" for note in ChunkNote.all_in(self.folder)):
            # Some value did not fit. All rows have one dtype, so the shards that would have fitted are made again.
            if state.is_main_process:
                logger.warning("Some activations do not fit into float16: all are stored as float32.")
            state.wait_for_everyone()
            if state.is_main_process:
                for note in ChunkNote.all_in(self.folder):
                    if note.dtype == "float16":
                        note.forget(self.folder)
            state.wait_for_everyone()
            self._store_missing(frozen, "float32")
        if state.is_main_process:
            finish(self, ChunkNote.all_in(self.folder), provenance, frozen.vocab_size)
        state.wait_for_everyone()
        return self.folder

    def stream(self, frozen: FrozenLM, split: str = "train", dtype: str = "float32") -> IterableDataset:
        """The same rows in the same order, computed while they are consumed and never stored.

        Shuffle with `.shuffle(seed, buffer_size)`, as any stream.
        """
        if split not in SPLITS:
            raise BadInput("split", split, f"Use one of {', '.join(SPLITS)}.")
        features = features_of(self.sites, self.hidden_size, dtype, self.corpus.features)
        return IterableDataset.from_generator(RowStream(self, frozen, split, features), features=features)

    def _first_dtype(self, frozen: FrozenLM) -> str:
        if self.arguments.storage_dtype != "auto":
            return self.arguments.storage_dtype
        return "float16" if frozen.dtype.itemsize == 2 else "float32"

    def _settle_plan(self, plan: dict[str, Any]) -> None:
        """Write the plan, or compare it with the one that is there; drop finished chunks that are damaged."""
        path = self.folder / PROGRESS / PLAN
        if not path.exists():
            clear(self.folder)  # what lies there without a plan could be of anything
            write_json(path, plan)
            return
        table = compare_fields(plan, json.loads(path.read_text()), ("now", "before"), plan)
        if table:
            raise BadInput("resume", f"\n{table}\n", "Start with the same settings as before, or use --overwrite.")
        for note in ChunkNote.all_in(self.folder):
            for shard in note.shards:
                try:
                    shard.verify(self.folder)
                except CorruptShard as damage:
                    logger.warning("%s It is made again now.", damage)
                    (self.folder / METADATA).unlink(missing_ok=True)
                    note.forget(self.folder)
                    break

    def _store_missing(self, frozen: FrozenLM, dtype: str) -> None:
        """Compute this process's share of the chunks that have no note yet, while the disk is written beside it."""
        state, size = PartialState(), self.arguments.documents_per_shard
        done = {note.index for note in ChunkNote.all_in(self.folder)}
        features = features_of(self.sites, self.hidden_size, dtype, self.corpus.features)
        writer = ChunkWriter(self.folder, features, self.rules.continuation_length, self.sites, frozen.dtype)
        reader = ChunkReader(frozen, self.sites, self.arguments.batch_size)

        def mine(index: int) -> bool:
            return index % state.num_processes == state.process_index and index not in done

        def prepared_chunks() -> Iterator[tuple[int, int, dict[str, list[Prepared]]]]:
            for index, documents in self.corpus.chunks(size, mine):
                yield index, len(documents), prepare(documents, self.tokenizer, self.rules)

        total = self.corpus.num_documents
        if total is not None:
            total = sum(min(size, total - i * size) for i in range(-(-total // size)) if mine(i))
        meter = Meter(total)
        with meter.bar, ThreadPoolExecutor(1) as disk:
            writing: Future[None] | None = None
            for index, count, prepared in ahead(prepared_chunks()):
                # Split by split, so that a stream of one of them reads the very same batches.
                parts = {split: (own, reader.read(own, meter.advance)) for split, own in prepared.items()}
                meter.bar.update(count - sum(len(own) for own in prepared.values()))
                if writing:
                    writing.result()
                writing = disk.submit(writer.store, index, count, parts)
            if writing:
                writing.result()
        state.wait_for_everyone()


class Meter:
    """A progress bar over documents, with tokens per second."""

    def __init__(self, total: int | None) -> None:
        hidden = not PartialState().is_local_main_process
        self.bar = tqdm(total=total, desc="extracting", unit="doc", disable=hidden)
        self.tokens, self.start = 0, time.perf_counter()

    def advance(self, batch: list[Prepared]) -> None:
        self.tokens += sum(p.length for p in batch)
        self.bar.set_postfix_str(f"{self.tokens / (time.perf_counter() - self.start):,.0f} tokens/s", refresh=False)
        self.bar.update(len(batch))


def ahead(items: Iterator[Any]) -> Iterator[Any]:
    """The same items, the next one being made in a thread while the current one is used."""
    end = object()
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(next, items, end)
        while (item := future.result()) is not end:
            future = thread.submit(next, items, end)
            yield item
