"""Stored blocks: open a folder, check it, and take shuffled tokens or whole documents from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict, IterableDataset
from torch import Tensor

from ...frozen import FrozenLM, Site
from ..documents import SPLITS, Tokens
from ..manifest import read_statistics
from ..recorded import opened
from ..storage import STATISTICS, Shard
from .data import KIND, BlockData, UnstoredBlocks
from .documents import BlockSource
from .files import read_activations, read_documents, read_scale
from .given import blocks_of


@dataclass(frozen=True)
class Blocks(BlockData):
    """Blocks that lie in a folder.

    Args:
        folder: where they lie.
        metadata: what `extraction.json` says.
        statistics: `<site>.mean` and `<site>.variance` over all training tokens, `[d]` float64.
    """

    folder: Path
    metadata: Mapping[str, Any]
    statistics: Mapping[str, np.ndarray]

    @classmethod
    def load(cls, folder: str | Path, verify: bool = True) -> Blocks:
        """Open a folder of blocks; nothing is read into memory.

        Args:
            folder: of an extraction of blocks.
            verify: compare every block with its checksum first; a damaged one is named. The small files beside them
                always are, and the scales of int8.
        """
        metadata = opened(folder, KIND, "blocks", verify)
        blocks = cls(Path(folder), metadata, read_statistics(Path(folder) / STATISTICS, metadata))
        if metadata["dtype"] == "int8":
            for shard in blocks.shards():
                read_scale(blocks.folder / shard.file, blocks.sites)
        return blocks

    @staticmethod
    def from_dataset(
        dataset: Dataset | IterableDataset | DatasetDict,
        frozen: FrozenLM,
        sites: str | Site | Sequence[str | Site] | None = None,
        eval_dataset: Dataset | None = None,
    ) -> UnstoredBlocks:
        """Take documents that somebody has; all of them are checked at once.

        Args:
            dataset: a row for each document: `input_ids`, or `text`, which is tokenised and cut as in an extraction;
                and `doc_id`, or they are numbered. A column named after a site holds its activations `[n, d]` at the
                last n tokens, and n is the same number of tokens short of every document. Without such columns the
                model reads the documents when they are trained on, from position 1 on. Or splits of such rows.
            frozen: the model. Activations cannot prove that they are its own: who gives them vouches for it.
            sites: where they were, or shall be, read. Default: what columns are named after.
            eval_dataset: held-out documents, the validation split.
        """
        return blocks_of(dataset, frozen, sites, eval_dataset)

    def shards(self, split: str | None = None) -> list[Shard]:
        """The files of a split, or of all."""
        shards = [Shard(**record) for record in self.metadata["shards"]]
        return [shard for shard in shards if split in (None, shard.split)]

    @property
    def sources(self) -> Mapping[str, BlockSource]:
        found = {split: self.shards(split) for split in SPLITS}
        return {split: StoredBlocks(self, shards) for split, shards in found.items() if shards}


class StoredBlocks(BlockSource):
    """The blocks of one split, read from their files."""

    def __init__(self, blocks: Blocks, shards: Sequence[Shard]) -> None:
        self.paths = [blocks.folder / shard.file for shard in shards]
        self.sites, self.hidden_size = blocks.sites, int(blocks.metadata["hidden_size"])
        self.sizes = np.array([shard.rows for shard in shards], np.int64)
        self.stored = torch.int8 if blocks.dtype == torch.int8 else None
        self.dtype = torch.float32 if self.stored else blocks.dtype
        self.device = torch.device("cpu")
        self.min_position = blocks.metadata["rules"]["min_position"]
        self._dtype = blocks.dtype

    def fill(self, number: int, into: Tensor) -> None:
        read_activations(self.paths[number], self._dtype, self.sites, into)

    def scale(self, number: int) -> Tensor:
        return read_scale(self.paths[number], self.sites)

    def documents(self, number: int) -> list[Tokens]:
        return read_documents(self.paths[number])
