"""`TrainingData`: the rows that a trainer learns from, the held-out ones, and how batches are made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from datasets import IterableDataset


@dataclass(frozen=True)
class TrainingData:
    """
    Args:
        train: a `datasets.Dataset` or anything with a length and `__getitem__`, or an `IterableDataset`.
        collate: makes a batch of its rows. Batches are dicts of tensors, which may hold dicts of tensors.
        held_out: rows to evaluate on while training, several sets of them by name, or None.
        metadata: what the data says of itself: `corpus`, and of each of `splits` its `documents` and `rows`.
        example: a text for the snippet of the card.
    """

    train: Any
    collate: Callable[[Any], dict[str, Any]]
    held_out: Any = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    example: Callable[[], str] = lambda: "The capital of France is"

    @property
    def streams(self) -> bool:
        """Whether the training rows are made while they are trained on."""
        return isinstance(self.train, IterableDataset)

    @property
    def watched(self) -> Any:
        """The rows that training looks at: of several held-out sets, the first."""
        return next(iter(self.held_out.values())) if isinstance(self.held_out, Mapping) else self.held_out
