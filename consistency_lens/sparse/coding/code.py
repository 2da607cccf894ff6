"""`SparseCode`: the active features of some tokens.

Shapes: N tokens, L chosen layers, F features per layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ...base.lens import Code
from .entries import Entries, starts_of


@dataclass(frozen=True)
class SparseCode(Code):
    """The features of each chosen layer, in the order of the layers, without gradient.

    Args:
        active: of each chosen layer, `[N, F]` or its entries.
        window: which layers of the model these are.
    """

    active: tuple[Tensor | Entries, ...]
    window: tuple[int, ...]

    def __len__(self) -> int:
        return self.active[0].shape[0]

    @cached_property
    def entries(self) -> tuple[Entries, ...]:
        """Of each chosen layer the features that are active. Made when it is asked for: counts need none."""
        return tuple(_entries(found) for found in self.active)

    def take(self, rows: Tensor) -> SparseCode:
        return SparseCode(tuple(found.take(rows) for found in self.entries), self.window)

    def counts(self) -> Tensor:
        """On how many tokens each feature is active, `[L, F]` int64."""
        return torch.stack([f.counts() if isinstance(f, Entries) else (f > 0).sum(0) for f in self.active])

    @property
    def l0(self) -> Tensor:
        """Active features per token in the mean, of each layer: `[L]`."""
        return self.counts().sum(1) / max(1, len(self))

    def rows(self, top: int = 10) -> list[dict[str, Any]]:
        """For people: one row per token, with its strongest features as (layer, feature, value)."""
        strongest: list[list[tuple[int, int, float]]] = [[] for _ in range(len(self))]
        for layer, found in zip(self.window, self.entries, strict=True):
            starts = [*starts_of(found.tokens, len(self)).tolist(), len(found.tokens)]
            features, values = found.features.tolist(), found.values.tolist()
            for token in range(len(self)):
                own = range(starts[token], starts[token + 1])
                strongest[token] += [(layer, features[e], values[e]) for e in own]
        rows = []
        for active in strongest:
            active.sort(key=lambda entry: -entry[2])
            words = ", ".join(f"{layer}/{feature} {value:.2f}" for layer, feature, value in active[:top])
            rows.append({"explanation": words, "features": active[:top], "active": len(active)})
        return rows


def _entries(found: Tensor | Entries) -> Entries:
    if isinstance(found, Tensor):
        return Entries.where(found > 0, found)
    kept = found.values > 0  # a JumpReLU lists features near their thresholds, too
    return Entries(found.tokens[kept], found.features[kept], found.values[kept], found.shape)
