"""Stores the blocks of a chunk, one at a time, and then the note that says the chunk is done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..documents import SPLITS, Tokens
from ..statistics import SiteStatistics, merged, statistics_of
from ..storage import Shard, note_of
from .documents import labels_of
from .encoding import encode
from .files import write_block


class BlockWriter:
    """Writes one chunk; blocks come split by split, in their order.

    Args:
        folder: of the extraction.
        chunk: the number of the chunk.
        sites: names of the sites.
        dtype: in which activations are stored.
        min_position: the first position that is kept.
    """

    def __init__(self, folder: Path, chunk: int, sites: Sequence[str], dtype: str, min_position: int) -> None:
        self.folder, self.chunk, self.sites, self.dtype = folder, chunk, list(sites), dtype
        self.min_position = min_position
        self.shards: list[Shard] = []
        self.documents: dict[str, list[Tokens]] = {split: [] for split in SPLITS}
        self.statistics: list[dict[str, SiteStatistics]] = []
        self.lost = torch.zeros(len(sites), dtype=torch.float64)

    def add(self, split: str, documents: Sequence[Tokens], values: Tensor) -> None:
        """Store one block: its documents, and the activations of their kept tokens `[n, L, d]` wherever they lie."""
        labels = labels_of(documents, self.min_position)
        encoded = encode(values, self.dtype, self.sites, labels.doc_id)
        if split == "train":
            self.statistics.append(statistics_of(values, self.sites))
            if encoded.lost is not None:
                self.lost += encoded.lost
        number = sum(shard.split == split for shard in self.shards)
        self.shards.append(write_block(self.folder, split, self.chunk, number, documents, encoded))
        self.documents[split].extend(documents)

    def close(self, num_documents: int, hidden_size: int) -> None:
        """Say that the chunk, which had so many documents, is done."""
        arrays = {"lost": self.lost.numpy()}
        for site, found in merged(self.statistics, self.sites, hidden_size).items():
            arrays |= found.to_arrays(site)
        note, more = note_of(self.chunk, num_documents, self.dtype, self.shards, self.documents)
        note.write(self.folder, arrays | more)
