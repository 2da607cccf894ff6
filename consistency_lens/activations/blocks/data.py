"""All tokens of some documents at many sites, wherever they come from: shuffled, or document by document.

Shapes: n kept tokens, L sites, d hidden size, T tokens of a document.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ...errors import BadInput
from ..documents import Tokens
from ..recorded import Recorded
from ..statistics import SiteStatistics, described, merged, statistics_of
from .documents import BlockSource
from .encoding import STORED
from .tokens import ShuffledTokens

KIND = "blocks"


class WholeDocuments(Dataset[dict[str, Tensor]]):
    """Documents one by one, never shuffled.

    Each is a dict: `doc_id`; `input_ids [T]`, the whole document; `position [n]` of its kept tokens, which are its
    last; and `activations [n, L, d]`, in the dtype that tokens have.

    Args:
        source: the blocks.
    """

    def __init__(self, source: BlockSource) -> None:
        self.source = source
        self._held: tuple[int, list[Tokens], Tensor] | None = None

    @cached_property
    def _places(self) -> np.ndarray:
        """Block and number within it of each document, `[D, 2]`."""
        counts = [len(self.source.documents(block)) for block in range(len(self.source.sizes))]
        return np.array([(block, i) for block, count in enumerate(counts) for i in range(count)]).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"document {index} of {len(self)}")
        block, number = (int(value) for value in self._places[index])
        if self._held is None or self._held[0] != block:
            self._held = None  # the next one takes its memory
            self._held = block, self.source.documents(block), self.source.read(block)
        _, documents, activations = self._held
        document, first = documents[number], self.source.min_position
        before = sum(other.length - first for other in documents[:number])
        return {
            "doc_id": torch.tensor(document.doc_id),
            "input_ids": torch.from_numpy(document.ids.astype(np.int64)),
            "position": torch.arange(first, document.length),
            "activations": activations[before : before + document.length - first],
        }


class BlockData(Recorded):
    """Blocks of each split, stored, streamed or given: shuffled tokens to train on, whole documents to evaluate on.

    A subclass has `sources`, the blocks of each split that has any, and `statistics`: `<site>.mean` and
    `<site>.variance` over all training tokens, `[d]` float64.
    """

    NOUN = KIND
    statistics: Mapping[str, np.ndarray]

    @property
    def sources(self) -> Mapping[str, BlockSource]:
        raise NotImplementedError

    @property
    def dtype(self) -> torch.dtype:
        """In which activations are stored, or come from the model."""
        return STORED[self.metadata["dtype"]]

    @property
    def mean(self) -> Tensor:
        """Mean training activation of each site, `[L, d]` float64."""
        return torch.from_numpy(np.stack([self.statistics[f"{site}.mean"] for site in self.sites]))

    @property
    def variance(self) -> Tensor:
        """Variance of each channel over the training tokens, `[L, d]` float64."""
        return torch.from_numpy(np.stack([self.statistics[f"{site}.variance"] for site in self.sites]))

    @property
    def splits(self) -> dict[str, WholeDocuments]:
        """The whole documents of each split that has any."""
        return {split: WholeDocuments(source) for split, source in self.sources.items()}

    def source(self, split: str = "train") -> BlockSource:
        """The blocks of a split."""
        if split not in self.sources:
            raise BadInput("split", split, f"Use one of {', '.join(self.sources)}.", why="no blocks are of this split")
        return self.sources[split]

    def tokens(self, split: str = "train", **options: Any) -> ShuffledTokens:
        """Shuffled tokens of a split; `options` are those of `ShuffledTokens`.

        Batches of a stream come from the model's device: switch `dataloader_pin_memory` off, and use no workers.
        """
        return ShuffledTokens(self.source(split), **options)

    def documents(self, split: str = "validation") -> WholeDocuments:
        """Whole documents of a split, in the order of the corpus, for evaluation."""
        return WholeDocuments(self.source(split))


class UnstoredBlocks(BlockData):
    """Blocks that lie in no folder: their statistics are taken in a pass, when they are asked for.

    Args:
        sources: the blocks of each split that has any.
        metadata: what `extraction.json` would say.
    """

    def __init__(self, sources: Mapping[str, BlockSource], metadata: Mapping[str, Any]) -> None:
        self._sources, self.metadata = sources, metadata

    @property
    def sources(self) -> Mapping[str, BlockSource]:
        return self._sources

    @cached_property
    def statistics(self) -> Mapping[str, np.ndarray]:  # type: ignore[override]
        """`<site>.mean` and `<site>.variance` over all training tokens, `[d]` float64."""
        return described(self.measured())

    def measured(self, blocks: int | None = None) -> dict[str, SiteStatistics]:
        """Statistics of each site over all training tokens, in float64, in one pass through them.

        Args:
            blocks: take only the first so many.
        """
        source = self.source("train")
        parts = (statistics_of(source.read(n), self.sites) for n in range(len(source.sizes))[:blocks])
        return merged(parts, self.sites, source.hidden_size)
