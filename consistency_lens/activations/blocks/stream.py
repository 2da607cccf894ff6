"""Blocks that are computed when they are needed: no lists of numbers, no copy to the CPU, on disk token ids alone."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from ...errors import BadInput, is_full_disk
from ...frozen import FrozenLM
from ..documents import SPLITS, Tokens
from .data import KIND, UnstoredBlocks
from .documents import BlockRules, BlockSource, packed
from .reader import BlockReader


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
        self.ids, self.written, self.highest = tempfile.TemporaryFile(buffering=0), 0, 0  # noqa: SIM115 (as long as this)

    def add(self, split: str, documents: Sequence[Tokens]) -> None:
        """Take the documents of a chunk, in their order."""
        before = len(self.doc_ids[split])
        self.cuts[split] += [slice(before + b.start, before + b.stop) for b in packed(documents, self.rules)]
        for document in documents:
            self.doc_ids[split].append(document.doc_id)
            self.lengths[split].append(document.length)
            self.highest = max(self.highest, int(document.ids.max()))
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

    def metadata(self, frozen: FrozenLM, sites: Sequence[str], dtype: torch.dtype | None = None) -> dict[str, Any]:
        """What `extraction.json` would say of activations of these documents."""
        return {
            "kind": KIND,
            "provenance": frozen.provenance(*sites).to_dict(),
            "rules": asdict(self.rules),
            "dtype": str(dtype or frozen.dtype).removeprefix("torch."),
            "hidden_size": frozen.hidden_size,
            "splits": {
                split: {"documents": len(numbers), "tokens": int(self.sizes(split).sum())}
                for split, numbers in self.doc_ids.items()
                if numbers
            },
            "highest_token_id": self.highest,
        }

    def sizes(self, split: str) -> np.ndarray:
        """Kept tokens of each block."""
        kept = [sum(n - self.rules.min_position for n in self.lengths[split][own]) for own in self.cuts[split]]
        return np.array(kept, np.int64)


class BlockStream(UnstoredBlocks):
    """Blocks that a model computes.

    Args:
        texts: the documents.
        reader: reads them.
        within: calls what reads.
        origin: what `metadata` says besides, such as the corpus.
    """

    def __init__(
        self,
        texts: TokenizedCorpus,
        reader: BlockReader,
        within: Callable[[Callable[[], Any]], Any] = lambda read: read(),
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        self.texts, self.reader, self.within = texts, reader, within
        sources = {split: StreamedBlocks(self, split) for split in SPLITS if texts.cuts[split]}
        super().__init__(sources, {**(origin or {}), **texts.metadata(reader.frozen, reader.sites)})

    def __reduce__(self) -> NoReturn:
        raise _refused()


def _refused() -> BadInput:
    why = "a stream computes its blocks with the frozen model of this process"
    return BadInput("dataloader_num_workers", "1 or more", "Use 0.", why=why)


class StreamedBlocks(BlockSource):
    """The blocks of one split, computed when they are asked for."""

    def __init__(self, stream: BlockStream, split: str) -> None:
        self.stream, self.split = stream, split
        frozen = stream.reader.frozen
        self.sites, self.hidden_size = stream.reader.sites, frozen.hidden_size
        self.sizes = stream.texts.sizes(split)
        self.dtype, self.device = frozen.dtype, frozen.device
        self.min_position = stream.texts.rules.min_position

    def documents(self, number: int) -> list[Tokens]:
        return self.stream.texts.documents(self.split, number)

    def fill(self, number: int, into: Tensor) -> None:
        if get_worker_info() is not None:
            raise _refused()
        documents = self.documents(number)
        self.stream.within(lambda: self.stream.reader.read(documents, into))
