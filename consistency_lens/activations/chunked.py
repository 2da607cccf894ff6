"""What every extraction does, whatever it stores: the work is cut into chunks of consecutive documents.

A chunk is computed the same way whoever does it and whenever, so processes share chunks out, and a resumed run does
those that are missing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate import PartialState
from tqdm.auto import tqdm
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from ..errors import BadInput
from ..frozen import FrozenLM, Provenance
from ..frozen.anatomy.parts import longest_context
from ..frozen.loading.provenance import hash_tokenizer
from ..frozen.sites import resolve_sites
from ..options import option
from .bill import Bill, free_bytes
from .corpus import Corpus, Document
from .documents import DocumentRules, Tokens
from .finish import Finishing
from .folder import ExtractionFolder
from .storage import ChunkNote, CorruptShard

logger = logging.getLogger(__name__)

SAMPLE_SIZE = 256  # documents that are looked at together


@dataclass
class ReadArguments:
    """What every extraction is told: what to read, and where to put it. A subclass gives the defaults."""

    output_dir: str = ""
    sites: list[str] = field(default_factory=list)
    min_position: int = 0
    max_length: int | None = option(
        None, "Number of tokens after which a document is cut. Default: 512, or the model's context."
    )
    storage_dtype: str = "auto"
    batch_size: int = 1
    documents_per_shard: int = 1
    resume: bool = option(False, "Resume an interrupted extraction in output_dir.")
    overwrite: bool = option(False, "Overwrite an extraction in output_dir.")


class ChunkedExtraction(Finishing):
    """One corpus, read at some sites of one model. A subclass says what is stored of a document, and how.

    Made without the model's weights: all that can be wrong with the request is said before they are loaded.

    Args:
        corpus: the texts.
        tokenizer: of the model.
        config: of the model.
        arguments: what to read.
        command: how the run was started, for the card.
    """

    RULES: ClassVar[type[DocumentRules]]
    arguments: Any
    sample: Sequence[Any]  # of documents, as `prepare` makes them

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: PreTrainedTokenizerBase,
        config: PreTrainedConfig,
        arguments: ReadArguments,
        command: str = "",
    ) -> None:
        text_config = config.get_text_config()
        self.corpus, self.tokenizer, self.config, self.command = corpus, tokenizer, config, command
        self.arguments = arguments
        self.folder = ExtractionFolder(Path(arguments.output_dir), arguments.resume, arguments.overwrite)
        self.sites = [str(site) for site in resolve_sites(arguments.sites, text_config.num_hidden_layers)]
        self.hidden_size: int = text_config.hidden_size
        self.vocab_size: int = text_config.vocab_size
        self.documents_per_shard = arguments.documents_per_shard
        for name in ("batch_size", "documents_per_shard"):
            if (value := vars(arguments)[name]) < 1:
                raise BadInput(name, value, "Use 1 or more.")
        self.require_request()
        self.rules = self.rules_of(arguments, longest_context(config))
        self.sample, seen = self._first_documents()
        self.sample_share = len(self.sample) / seen
        self.require_vocabulary(max(int(document.ids.max()) for document in self.sample))

    @classmethod
    def rules_of(cls, given: ReadArguments, model_length: int) -> Any:
        """How documents are read, for a model that takes so many tokens."""
        if given.max_length is not None and given.max_length > model_length:
            raise BadInput("max_length", given.max_length, f"The model takes at most {model_length} tokens.")
        room = min(512, model_length) if given.max_length is None else given.max_length
        return cls.RULES.of(given, max_length=room)

    def require_request(self) -> None:
        """Raise where the request asks for what cannot be stored."""
        raise NotImplementedError

    def prepare(self, documents: Sequence[Document]) -> dict[str, list[Any]]:
        """The documents of each split of which something is stored, as tokens."""
        raise NotImplementedError

    def reader(self, frozen: FrozenLM) -> Any:
        """Reads prepared documents."""
        raise NotImplementedError

    def amounts(self, model_dtype: torch.dtype) -> Bill:
        """What will be stored, without time and room."""
        raise NotImplementedError

    def store(self, frozen: FrozenLM) -> None:
        """Compute and write, in all processes together, the chunks that have no note yet."""
        raise NotImplementedError

    def plan(self, provenance: Provenance) -> dict[str, Any]:
        """All that decides what is stored: a resumed run has to agree with it."""
        return {
            **asdict(self.rules),
            **self.corpus.identity,
            "max_documents": self.corpus.arguments.max_documents,
            "storage_dtype": self.arguments.storage_dtype,
            "documents_per_shard": self.documents_per_shard,
            **{name: value for name, value in provenance.to_dict().items() if name in Provenance.BINDING},
        }

    def bill(self, frozen: FrozenLM) -> Bill:
        """What the run will cost, from the first documents and the speed of a few of their batches."""
        reader, few = self.reader(frozen), self.sample[: 2 * self.arguments.batch_size]
        reader.read(few)  # the first pass is slower than all others
        start = time.perf_counter()
        reader.read(few)
        speed = sum(document.length for document in few) / (time.perf_counter() - start)
        return replace(
            self.amounts(frozen.dtype),
            tokens_per_second=speed * PartialState().num_processes,
            free_bytes=free_bytes(self.folder.path),
            folder=str(self.folder.path),
            stored_bytes=self.folder.stored_bytes,
        )

    def scale(self) -> float:
        """How many times the sample there are in all; of a stream that does not say, in 1000 documents."""
        documents = self.corpus.num_documents
        return (1000 if documents is None else documents) * self.sample_share / len(self.sample)

    def _first_documents(self) -> tuple[list[Any], int]:
        """The first documents with one that is long enough, and how many documents it took to find it."""
        chunks = tqdm(self.corpus.chunks(SAMPLE_SIZE), "looking for long enough texts", delay=3, leave=False)
        for index, documents in chunks:
            if sample := [document for own in self.prepare(documents).values() for document in own]:
                return sample, index * SAMPLE_SIZE + len(documents)
        fix = "Use a smaller --min_position, longer texts, or --sample_by paragraph for a text file."
        why = f"no document has the {self.rules.least} tokens that it takes"
        raise BadInput("min_position", self.rules.min_position, fix, why=why)

    def open(self) -> None:
        """Claim the output folder, on every process, before the weights are loaded; nothing in it is changed yet."""
        if PartialState().is_main_process:
            self.folder.claim()
        PartialState().wait_for_everyone()

    def run(self, frozen: FrozenLM) -> Path:
        """Compute what is missing and store it; returns the folder."""
        self.require_same_model(frozen)
        self.open()
        state, provenance = PartialState(), frozen.provenance(*self.sites)
        try:
            if state.is_main_process:
                self.folder.begin(self.plan(provenance))
                self.command = self.folder.first_command(self.command)
            state.wait_for_everyone()
            if self.folder.complete:
                logger.info("%s is complete: every shard is there and as written.", self.folder.path)
                return self.folder.path
            self.store(frozen)
            if state.is_main_process:
                self.finish(self._all_notes(), provenance)
            state.wait_for_everyone()
            return self.folder.path
        finally:
            self.folder.release()

    def require_same_model(self, frozen: FrozenLM) -> None:
        """Documents were prepared with a tokenizer and for a size: the model has to be theirs."""
        if hash_tokenizer(frozen.tokenizer) != hash_tokenizer(self.tokenizer):
            raise BadInput("tokenizer", type(self.tokenizer).__name__, f"Use the one of {frozen.model_id}.")
        if frozen.hidden_size != self.hidden_size:
            raise BadInput("config", f"hidden size {self.hidden_size}", f"Use the one of {frozen.model_id}.")

    def require_vocabulary(self, highest: int) -> None:
        """Raise where the tokenizer gives a token that the model does not have."""
        if highest >= self.vocab_size:
            raise BadInput(
                "tokenizer",
                type(self.tokenizer).__name__,
                f"Use the tokenizer of the model, which has {self.vocab_size} tokens.",
                why=f"it gives token {highest}",
            )

    def missing_chunks(self) -> Iterator[tuple[int, list[Document]]]:
        """This process's share of the chunks that have no note yet."""
        return self.corpus.chunks(self.documents_per_shard, self._is_mine())

    def meter(self) -> Meter:
        """A progress bar over the documents of `missing_chunks`."""
        total, size, mine = self.corpus.num_documents, self.documents_per_shard, self._is_mine()
        if total is not None:
            total = sum(min(size, total - i * size) for i in range(-(-total // size)) if mine(i))
        return Meter(total)

    def _is_mine(self) -> Any:
        state, done = PartialState(), {note.index for note in self.folder.notes()}
        return lambda index: index % state.num_processes == state.process_index and index not in done

    def _all_notes(self) -> list[ChunkNote]:
        """The notes of all chunks; a gap among them would be rows that are lost without a word."""
        notes = self.folder.notes()
        documents = self.corpus.num_documents
        known = -(-documents // self.documents_per_shard) if documents else notes[-1].index
        missing = sorted(set(range(known)) - {note.index for note in notes})
        if missing:
            raise CorruptShard(
                f"The notes of chunks {missing[:5]} in {self.folder.path} vanished during the run. "
                "Start again with --resume."
            )
        return notes


class Disk(ThreadPoolExecutor):
    """Writes beside the computation, one thing at a time: whoever gives it the next one waits for the last."""

    def __init__(self) -> None:
        super().__init__(1)
        self._writing: Future[None] | None = None

    def write(self, act: Callable[..., None], *arguments: Any) -> None:
        self.wait()
        self._writing = self.submit(act, *arguments)

    def wait(self) -> None:
        """Until all is written; raises what went wrong."""
        if self._writing:
            self._writing.result()


class Meter:
    """A progress bar over documents, with tokens per second."""

    def __init__(self, total: int | None) -> None:
        hidden = not PartialState().is_local_main_process
        self.bar = tqdm(total=total, desc="extracting", unit="doc", disable=hidden)
        self.tokens, self.start = 0, time.perf_counter()

    def advance(self, documents: Sequence[Tokens]) -> None:
        """These are done."""
        self.tokens += sum(document.length for document in documents)
        self.bar.set_postfix_str(f"{self.tokens / (time.perf_counter() - self.start):,.0f} tokens/s", refresh=False)
        self.bar.update(len(documents))


def ahead(items: Iterator[Any]) -> Iterator[Any]:
    """The same items, the next one being made in a thread while the current one is used."""
    end = object()
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(next, items, end)
        while (item := future.result()) is not end:
            future = thread.submit(next, items, end)
            yield item
