"""Text to Arrow: `Extraction` reads a corpus at some sites of a frozen LLM and stores, or streams, the rows.

The work is cut into chunks of consecutive documents. A chunk is computed the same way whoever does it and whenever, so
processes share chunks out, and a resumed run does those that are missing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
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
from ..frozen.anatomy import longest_context
from ..frozen.provenance import hash_tokenizer
from ..frozen.sites import resolve_sites
from .bill import Bill
from .corpus import Corpus
from .finish import finish
from .folder import ExtractionFolder
from .reader import ChunkReader
from .rows import SPLITS, Prepared, RowRules, prepare
from .storage import ChunkNote, CorruptShard, features_of
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
        metadata={"help": "embed, or resid_pre|resid_mid|resid_post|mlp_in|mlp_out|attn_out and .L: a layer, -1, or 2/3."},
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


def rules_of(given: ExtractArguments, model_length: int) -> RowRules:
    """How rows are taken from a document, for a model that takes so many tokens."""
    if given.max_length is not None and given.max_length > model_length:
        raise BadInput("max_length", given.max_length, f"The model takes at most {model_length} tokens.")
    return RowRules(
        min_position=given.min_position,
        max_length=min(512, model_length) if given.max_length is None else given.max_length,
        positions_per_document=given.positions_per_document,
        continuation_length=given.continuation_length,
        validation_fraction=given.validation_fraction,
        test_fraction=given.test_fraction,
        seed=given.seed,
    )


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
        self.folder = ExtractionFolder(Path(arguments.output_dir), arguments.resume, arguments.overwrite)
        self.sites = [str(site) for site in resolve_sites(arguments.sites, text_config.num_hidden_layers)]
        self.hidden_size: int = text_config.hidden_size
        for name, value in [
            ("batch_size", arguments.batch_size),
            ("documents_per_shard", arguments.documents_per_shard),
        ]:
            if value < 1:
                raise BadInput(name, value, "Use 1 or more.")
        self.rules = rules_of(arguments, longest_context(config))
        features_of(self.sites, self.hidden_size, "float32", corpus.features)
        self.sample, seen = self._first_rows()
        self.sample_share = len(self.sample) / seen
        highest = max(int(p.ids.max()) for p in self.sample)
        if highest >= text_config.vocab_size:
            raise BadInput(
                "tokenizer",
                type(tokenizer).__name__,
                f"Use the tokenizer of the model, which has {text_config.vocab_size} tokens.",
                why=f"it gives token {highest}",
            )

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

    def open(self) -> None:
        """Claim the output folder, on every process, before the weights are loaded; nothing in it is changed yet."""
        if PartialState().is_main_process:
            self.folder.claim()
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

    def run(self, frozen: FrozenLM) -> Path:
        """Compute what is missing and store it; returns the folder."""
        self._require_same_model(frozen)
        self.open()
        state, provenance = PartialState(), frozen.provenance(*self.sites)
        try:
            if state.is_main_process:
                self.folder.begin(self.plan(provenance))
            state.wait_for_everyone()
            if self.folder.complete:
                logger.info("%s is complete: every shard is there and as written.", self.folder.path)
                return self.folder.path
            dtype = self._wanted_dtype(frozen)
            self._store_missing(frozen, dtype)
            if dtype == "float16" and any(note.dtype == "float32" for note in self.folder.notes()):
                # Some value did not fit. All rows have one dtype: the shards that would have fitted are made again.
                state.wait_for_everyone()
                if state.is_main_process:
                    logger.warning("Some activations do not fit into float16: all are stored as float32.")
                    self.folder.forget([note for note in self.folder.notes() if note.dtype == "float16"])
                state.wait_for_everyone()
                self._store_missing(frozen, "float32")
            if state.is_main_process:
                finish(self, self._all_notes(), provenance)
            state.wait_for_everyone()
            return self.folder.path
        finally:
            self.folder.release()

    def _require_same_model(self, frozen: FrozenLM) -> None:
        """The rows were prepared with a tokenizer and for a size: the model has to be theirs."""
        if hash_tokenizer(frozen.tokenizer) != hash_tokenizer(self.tokenizer):
            raise BadInput("tokenizer", type(self.tokenizer).__name__, f"Use the one of {frozen.model_id}.")
        if frozen.hidden_size != self.hidden_size:
            raise BadInput("config", f"hidden size {self.hidden_size}", f"Use the one of {frozen.model_id}.")

    def _all_notes(self) -> list[ChunkNote]:
        """The notes of all chunks; a gap among them would be rows that are lost without a word."""
        notes = self.folder.notes()
        documents = self.corpus.num_documents
        known = -(-documents // self.arguments.documents_per_shard) if documents else notes[-1].index
        missing = sorted(set(range(known)) - {note.index for note in notes})
        if missing:
            raise CorruptShard(
                f"The notes of chunks {missing[:5]} in {self.folder.path} vanished during the run. "
                "Start again with --resume."
            )
        return notes

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
        self._require_same_model(frozen)
        features = features_of(self.sites, self.hidden_size, dtype, self.corpus.features)
        return IterableDataset.from_generator(RowStream(self, frozen, split, features, within), features=features)

    def _wanted_dtype(self, frozen: FrozenLM) -> str:
        if self.arguments.storage_dtype != "auto":
            return self.arguments.storage_dtype
        return "float16" if frozen.dtype.itemsize == 2 else "float32"

    def _store_missing(self, frozen: FrozenLM, dtype: str) -> None:
        """Compute this process's share of the chunks that have no note yet, while the disk is written beside it."""
        state, size = PartialState(), self.arguments.documents_per_shard
        done = {note.index for note in self.folder.notes()}
        features = features_of(self.sites, self.hidden_size, dtype, self.corpus.features)
        writer = ChunkWriter(self.folder.path, features, self.rules.continuation_length, self.sites, frozen.dtype)
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
