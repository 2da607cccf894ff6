"""Values per row, and their sums over documents drawn again and again: every number gets its interval here.

A number is arithmetic on sums. A sum is an array whose first entry is over the documents as they are, and whose others
are each over as many documents, drawn with replacement. So a ratio, a difference of two lenses or a ratio of ratios is
written once, as on paper, and its interval accounts for what the parts have in common.

Shapes: N rows, D documents, R draws.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

DRAWS = 1000


@dataclass(frozen=True)
class Number:
    """A measured value with its 95 % bootstrap interval over documents."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, draws: np.ndarray) -> Number | None:
        """From the value and its draws `[1 + R]`; None where nothing was there to measure."""
        if not math.isfinite(draws[0]):
            return None
        sound = draws[np.isfinite(draws)]  # a draw may hold none of the rows that a number is about
        low, high = np.percentile(sound[1:], [2.5, 97.5]) if len(sound) > 1 else (draws[0], draws[0])
        return cls(float(draws[0]), float(low), float(high))

    def __str__(self) -> str:
        return f"{shown(self.value)} [{shown(self.low)}, {shown(self.high)}]"


def shown(value: float) -> str:
    """Three decimals, which is what an interval over some hundred documents carries."""
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.3g}"


@dataclass
class Records:
    """What was measured of each row, as it comes in, batch after batch.

    `values[code, measure]` is a list of arrays `[B]`; `weights` the same, for how much of a row there was to measure.
    """

    values: dict[tuple[str, str], list[np.ndarray]] = field(default_factory=dict)
    weights: dict[tuple[str, str], list[np.ndarray]] = field(default_factory=dict)

    def add(self, code: str, measures: Mapping[str, Tensor], weights: Mapping[str, Tensor] | None = None) -> None:
        """One batch. A row whose value is NaN does not count."""
        for measure, tensor in measures.items():
            value = as_array(tensor)
            weight = as_array((weights or {}).get(measure, torch.ones(len(value))))
            known = np.isfinite(value)
            self.values.setdefault((code, measure), []).append(np.where(known, value, 0.0))
            self.weights.setdefault((code, measure), []).append(np.where(known, weight, 0.0))

    def column(self, code: str, measure: str) -> np.ndarray:
        return np.concatenate(self.values[code, measure])

    def weight(self, code: str, measure: str) -> np.ndarray:
        return np.concatenate(self.weights[code, measure])

    def measures(self, code: str) -> list[str]:
        """What was measured of one code, in the order in which it came."""
        return [measure for of, measure in self.values if of == code]


class Samples:
    """Sums of records over documents, as they are and drawn again.

    Args:
        records: values per row.
        documents: `[N]`, which document a row is of.
        subsets: name -> `[N]` bool.
        draws, seed: of the bootstrap.
    """

    def __init__(
        self,
        records: Records,
        documents: np.ndarray,
        subsets: Mapping[str, np.ndarray] | None = None,
        draws: int = DRAWS,
        seed: int = 0,
    ) -> None:
        self.records, self.subsets = records, dict(subsets or {})
        names, self._document = np.unique(documents, return_inverse=True)
        chances = np.full(len(names), 1 / len(names))
        again = np.random.default_rng(seed).multinomial(len(names), chances, size=draws)
        self._counts = np.concatenate([np.ones((1, len(names))), again])  # [1 + R, D]
        self._known: dict[tuple[str, str, str], tuple[np.ndarray, np.ndarray]] = {}

    def within(self, subsets: Mapping[str, np.ndarray]) -> Samples:
        """The same documents, drawn the same way, with other subsets."""
        other = copy.copy(self)
        other.subsets, other._known = dict(subsets), {}
        return other

    @property
    def documents(self) -> int:
        return self._counts.shape[1]

    def has(self, code: str, measure: str) -> bool:
        return (code, measure) in self.records.values

    def rows(self, subset: str = "") -> int:
        return int(self.subsets[subset].sum()) if subset else len(self._document)

    def sums(self, code: str, measure: str, subset: str = "") -> tuple[np.ndarray, np.ndarray]:
        """Summed values and summed weights, `[1 + R]` each."""
        key = (code, measure, subset)
        if key not in self._known:
            kept = self.subsets[subset] if subset else 1.0
            value, weight = self.records.column(code, measure), self.records.weight(code, measure)
            self._known[key] = self._drawn(value * kept), self._drawn(weight * kept)
        return self._known[key]

    def total(self, code: str, measure: str, subset: str = "") -> np.ndarray:
        return self.sums(code, measure, subset)[0]

    def mean(self, code: str, measure: str, subset: str = "") -> np.ndarray:
        value, weight = self.sums(code, measure, subset)
        return ratio(value, weight)

    def _drawn(self, values: np.ndarray) -> np.ndarray:
        return self._counts @ np.bincount(self._document, weights=values, minlength=self.documents)


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """NaN where there is nothing to divide by."""
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below != 0)


def as_array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().cpu().numpy()
