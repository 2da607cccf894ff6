"""What every extraction does, whatever it stores: the work is cut into chunks of consecutive documents.

A chunk is computed the same way whoever does it and whenever, so processes share chunks out, and a resumed run does
those that are missing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from accelerate import PartialState
from tqdm.auto import tqdm
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from ..errors import BadInput
from ..frozen import FrozenLM, Provenance
from ..frozen.loading.provenance import hash_tokenizer
from ..frozen.sites import resolve_sites
from .contexts.rows import SplitRules
from .corpus import Corpus, Document
from .folder import ExtractionFolder
from .storage import ChunkNote, CorruptShard

logger = logging.getLogger(__name__)


class ChunkedArguments(Protocol):
    """The arguments that every extraction has."""

    output_dir: str
    sites: list[str]
    max_length: int | None
    batch_size: int
    documents_per_shard: int
    resume: bool
    overwrite: bool


class ChunkedExtraction:
    """One corpus, read at some sites of one model. A subclass gives `rules`, `plan`, `store` and `finish`.

    Made without the model's weights: all that can be wrong with the request is said before they are loaded.

    Args:
        corpus: the texts.
        tokenizer: of the model.
        config: of the model.
        arguments: what to read.
        command: how the run was started, for the card.
    """

    rules: SplitRules

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: PreTrainedTokenizerBase,
        config: PreTrainedConfig,
        arguments: ChunkedArguments,
        command: str = "",
    ) -> None:
        text_config = config.get_text_config()
        self.corpus, self.tokenizer, self.config, self.command = corpus, tokenizer, config, command
        self.folder = ExtractionFolder(Path(arguments.output_dir), arguments.resume, arguments.overwrite)
        self.sites = [str(site) for site in resolve_sites(arguments.sites, text_config.num_hidden_layers)]
        self.hidden_size: int = text_config.hidden_size
        self.vocab_size: int = text_config.vocab_size
        self.documents_per_shard = arguments.documents_per_shard
        for name, value in [
            ("batch_size", arguments.batch_size),
            ("documents_per_shard", arguments.documents_per_shard),
        ]:
            if value < 1:
                raise BadInput(name, value, "Use 1 or more.")

    def plan(self, provenance: Provenance) -> dict[str, Any]:
        """All that decides what is stored: a resumed run has to agree with it."""
        raise NotImplementedError

    def store(self, frozen: FrozenLM) -> None:
        """Compute and write, in all processes together, the chunks that have no note yet."""
        raise NotImplementedError

    def finish(self, notes: list[ChunkNote], provenance: Provenance) -> None:
        """Write, in the main process, what stands beside the chunks; `extraction.json` comes last."""
        raise NotImplementedError

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


def room_of(max_length: int | None, model_length: int) -> int:
    """How many tokens of a document are read, of a model that takes so many."""
    if max_length is not None and max_length > model_length:
        raise BadInput("max_length", max_length, f"The model takes at most {model_length} tokens.")
    return min(512, model_length) if max_length is None else max_length


class Meter:
    """A progress bar over documents, with tokens per second."""

    def __init__(self, total: int | None) -> None:
        hidden = not PartialState().is_local_main_process
        self.bar = tqdm(total=total, desc="extracting", unit="doc", disable=hidden)
        self.tokens, self.start = 0, time.perf_counter()

    def advance(self, lengths: list[int]) -> None:
        """Documents of so many tokens are done."""
        self.tokens += sum(lengths)
        self.bar.set_postfix_str(f"{self.tokens / (time.perf_counter() - self.start):,.0f} tokens/s", refresh=False)
        self.bar.update(len(lengths))


def ahead(items: Iterator[Any]) -> Iterator[Any]:
    """The same items, the next one being made in a thread while the current one is used."""
    end = object()
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(next, items, end)
        while (item := future.result()) is not end:
            future = thread.submit(next, items, end)
            yield item
