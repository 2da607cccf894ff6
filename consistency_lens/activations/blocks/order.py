"""The order in which shuffled tokens are trained on: a pure function of seed and epoch, so that no state is saved.

Shuffled in two levels: the blocks are permuted, and the tokens of each window of K blocks are permuted together. So a
window of tokens is all that has to be at hand at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ...errors import BadInput


class EpochOrder(NamedTuple):
    """One epoch's windows of blocks, and where each begins in the order."""

    windows: list[np.ndarray]  # numbers of blocks
    starts: np.ndarray  # [W + 1]

    def find(self, places: np.ndarray) -> np.ndarray:
        """The window of each place in the order."""
        return np.searchsorted(self.starts, places, side="right") - 1


class WindowOrder:
    """The tokens of some blocks, each once per epoch.

    Args:
        sizes: tokens of each block.
        seed: of the order.
        blocks_per_window: how many blocks' tokens are shuffled together, at most.
    """

    def __init__(self, sizes: Sequence[int] | np.ndarray, seed: int, blocks_per_window: int) -> None:
        if blocks_per_window < 1:
            raise BadInput("blocks_per_window", blocks_per_window, "Use 1 or more.")
        self.sizes, self.seed, self.blocks_per_window = np.asarray(sizes, np.int64), seed, blocks_per_window

    def __len__(self) -> int:
        return int(self.sizes.sum())

    def epoch(self, epoch: int) -> EpochOrder:
        """The first level: blocks permuted and cut into windows, the last one no smaller than the others."""
        blocks = np.random.default_rng([self.seed, epoch]).permutation(len(self.sizes))
        windows = np.array_split(blocks, max(-(-len(blocks) // self.blocks_per_window), 1))
        return EpochOrder(windows, np.cumsum([0, *(self.sizes[window].sum() for window in windows)]))

    def within(self, epoch: int, window: int, count: int) -> np.ndarray:
        """The second level: the `count` tokens of a window, numbered block after block, permuted."""
        return np.random.default_rng([self.seed, epoch, window + 1]).permutation(count)
