"""Blocks that are computed when they are needed: no lists of numbers, no copy to the CPU, on disk token ids alone."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info
from transformers import PreTrainedTokenizerBase

from ...errors import BadInput, is_full_disk
from ...frozen import FrozenLM, Provenance
from ..contexts.rows import SPLITS
from ..corpus import Corpus
from ..statistics import SiteStatistics
from .dataset import WholeDocuments
from .documents import BlockRules, Labels, Tokens, labels_of, packed, prepare
from .reader import BlockReader
from .statistics import statistics_of
from .tokens import ShuffledTokens


class TokenizedCorpus:
    """All documents as tokens, cut into the blocks that an extraction would store.

    In memory are a few bytes per document; the ids, four bytes each, are in a temporary file without a name.

    Args:
        rules: of the blocks.
    """

    def __init__(self, rules: BlockRules) -> None:
        self.rules = rules
        self.doc_ids: dict[str, list[int]] = {split: [] for split in SPLITS}
        self.lengths: dict[str, list[int]] = {split: [] for split in SPLITS}
        self.offsets: dict[str, list[int]] = {split: [] for split in SPLITS}
        self.cuts: dict[str, list[slice]] = {split: [] for split in SPLITS}
        self.ids, self.written = tempfile.TemporaryFile(), 0  # noqa: SIM115 (it is open as long as this is)

    @classmethod
    def of(
        cls, corpus: Corpus, tokenizer: PreTrainedTokenizerBase, rules: BlockRules, documents_per_chunk: int
    ) -> TokenizedCorpus:
        """Tokenise a corpus, chunk by chunk as an extraction does."""
        if corpus.num_documents is None:
            fix = "Say how many documents with --max_documents, or leave out --streaming."
            raise BadInput(
                "max_documents", None, fix, why="shuffled tokens are counted first, and a stream has no end"
            )
        found = cls(rules)
        for _, documents in corpus.chunks(documents_per_chunk):
            for split, prepared in prepare(documents, tokenizer, rules).items():
                found._add(split, prepared)
        found.ids.flush()
        return found

    def _add(self, split: str, documents: Sequence[Tokens]) -> None:
        before = len(self.doc_ids[split])
        lengths = [len(document.ids) for document in documents]
        self.cuts[split] += [slice(before + b.start, before + b.stop) for b in packed(lengths, self.rules)]
        for document in documents:
            self.doc_ids[split].append(document.doc_id)
            self.lengths[split].append(len(document.ids))
            self.offsets[split].append(self.written)
            try:
                self.written += self.ids.write(document.ids.tobytes())
            except OSError as error:
                if is_full_disk(error):
                    fix = "Free some space there, or set TMPDIR to another folder."
                    raise BadInput("TMPDIR", tempfile.gettempdir(), fix, why="no room left for token ids") from error
                raise

    def documents(self, split: str, block: int) -> list[Tokens]:
        """The documents of one block."""
        own, found = self.cuts[split][block], []
        for doc_id, length, offset in zip(
            self.doc_ids[split][own], self.lengths[split][own], self.offsets[split][own], strict=True
        ):
            found.append(Tokens(doc_id, np.frombuffer(os.pread(self.ids.fileno(), 4 * length, offset), np.int32)))
        return found

    def sizes(self, split: str) -> np.ndarray:
        """Kept tokens of each block."""
        kept = [sum(n - self.rules.min_position for n in self.lengths[split][own]) for own in self.cuts[split]]
        return np.array(kept, np.int64)


class BlockStream:
    """The blocks of an extraction, computed by its model; the same doors as `Blocks`.

    Args:
        corpus: the documents.
        reader: reads them.
        provenance: of model and sites.
        within: calls what reads.
    """

    def __init__(
        self,
        corpus: TokenizedCorpus,
        reader: BlockReader,
        provenance: Provenance,
        within: Callable[[Callable[[], Any]], Any],
    ) -> None:
        self.corpus, self.reader, self.provenance, self.within = corpus, reader, provenance, within

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites, in the order of the second axis of activations."""
        return self.provenance.sites

    @property
    def dtype(self) -> torch.dtype:
        """That of the model."""
        return self.reader.frozen.dtype

    @property
    def splits(self) -> dict[str, WholeDocuments]:
        """The whole documents of each split that has any."""
        return {split: self.documents(split) for split in SPLITS if self.corpus.cuts[split]}

    def source(self, split: str = "train") -> StreamedBlocks:
        """The blocks of a split."""
        if split not in SPLITS or not self.corpus.cuts[split]:
            held = [name for name in SPLITS if self.corpus.cuts[name]]
            raise BadInput("split", split, f"Use one of {', '.join(held)}.", why="no blocks are of this split")
        return StreamedBlocks(self, split)

    def tokens(self, split: str = "train", **options: Any) -> ShuffledTokens:
        """Shuffled tokens of a split; `options` are those of `ShuffledTokens`.

        Batches come from the model's device: switch `dataloader_pin_memory` off, and use no workers.
        """
        return ShuffledTokens(self.source(split), **options)

    def documents(self, split: str = "validation") -> WholeDocuments:
        """Whole documents of a split, in the order of the corpus, for evaluation."""
        return WholeDocuments(self.source(split))

    def measured(self, blocks: int | None = None) -> dict[str, SiteStatistics]:
        """Statistics of each site over all training tokens, in float64, in one pass through the model.

        Args:
            blocks: take only the first so many.
        """
        source = self.source("train")
        found = {site: SiteStatistics.empty(source.hidden_size) for site in self.sites}
        for number in range(len(source.sizes))[:blocks]:
            part = statistics_of(source.read(number), self.sites)
            found = {site: found[site].merge(part[site]) for site in self.sites}
        return found

    def require_model(self, frozen: FrozenLM, ignore: Sequence[str] = ()) -> None:
        """Raise unless this is the model that computes the blocks; `ignore` names fields that may differ."""
        frozen.provenance(*self.sites).require_same(self.provenance, "the model", "the blocks", ignore)

    def __reduce__(self) -> NoReturn:
        raise _refused()


def _refused() -> BadInput:
    why = "a stream computes its blocks with the frozen model of this process"
    return BadInput("dataloader_num_workers", "1 or more", "Use 0.", why=why)


class StreamedBlocks:
    """The blocks of one split, computed when they are asked for; a `BlockSource`."""

    def __init__(self, stream: BlockStream, split: str) -> None:
        self.stream, self.split = stream, split
        frozen = stream.reader.frozen
        self.sites, self.hidden_size = stream.sites, frozen.hidden_size
        self.sizes = stream.corpus.sizes(split)
        self.dtype, self.device = frozen.dtype, frozen.device
        self.min_position = stream.corpus.rules.min_position

    def documents(self, number: int) -> list[Tokens]:
        """The documents of a block."""
        return self.stream.corpus.documents(self.split, number)

    def labels(self, number: int) -> Labels:
        return labels_of(self.documents(number), self.min_position)

    def fill(self, number: int, into: Tensor) -> None:
        if get_worker_info() is not None:
            raise _refused()
        documents = self.documents(number)
        self.stream.within(lambda: self.stream.reader.read(documents, into))

    def read(self, number: int) -> Tensor:
        """A block by itself."""
        shape = (int(self.sizes[number]), len(self.sites), self.hidden_size)
        values = torch.empty(shape, dtype=self.dtype, device=self.device)
        self.fill(number, values)
        return values
