"""Streaming statistics: one pass, constant memory, and parts that merge to the same result in the same order.

Shapes: N rows of one part, d hidden size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from torch import Tensor

QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
# Norms fall into logarithmic bins, each 0.5 % wide: a quantile is off by no more than that.
_LOWEST, _WIDTH = 1e-12, 1.005
SKETCH_SIZE, _ROWS_PER_BAND, _SHINGLE = 4, 4, 5
_MULTIPLIERS = np.random.default_rng(0).integers(1, 2**63, SKETCH_SIZE * _ROWS_PER_BAND, dtype=np.uint64) | np.uint64(
    1
)


@dataclass
class SiteStatistics:
    """Mean and variance of each coordinate, and the distribution of norms, of the vectors of one site."""

    count: int
    mean: np.ndarray  # [d] float64
    squares: np.ndarray  # [d] float64: summed squared distance from the mean
    norm_bins: np.ndarray  # [k] int64, increasing: the bins that hold a norm
    norm_counts: np.ndarray  # [k] int64: how many
    extremes: np.ndarray  # [2] float64: smallest and largest norm, exactly

    @classmethod
    def of(cls, vectors: np.ndarray) -> SiteStatistics:
        """Statistics of `[N, d]` vectors."""
        vectors = vectors.astype(np.float64)
        if len(vectors) == 0:
            return cls.empty(vectors.shape[1])
        mean = vectors.mean(0)
        norms = np.linalg.norm(vectors, axis=1)
        squares = np.square(vectors - mean).sum(0)
        return cls(len(vectors), mean, squares, *binned(norms), np.array([norms.min(), norms.max()]))

    @classmethod
    def empty(cls, size: int) -> SiteStatistics:
        nothing = np.zeros(0, np.int64)
        return cls(0, np.zeros(size), np.zeros(size), nothing, nothing, np.array([np.inf, -np.inf]))

    def merge(self, other: SiteStatistics) -> SiteStatistics:
        """Both parts together (Chan's update, stable for large means)."""
        if not other.count:
            return self
        count = self.count + other.count
        shift = other.mean - self.mean
        bins, where = np.unique(np.concatenate([self.norm_bins, other.norm_bins]), return_inverse=True)
        counts = np.bincount(where, np.concatenate([self.norm_counts, other.norm_counts])).astype(np.int64)
        return SiteStatistics(
            count,
            self.mean + shift * (other.count / count),
            self.squares + other.squares + shift**2 * (self.count * other.count / count),
            bins,
            counts,
            np.array([min(self.extremes[0], other.extremes[0]), max(self.extremes[1], other.extremes[1])]),
        )

    @property
    def variance(self) -> np.ndarray:
        return self.squares / max(self.count, 1)

    def to_arrays(self, site: str) -> dict[str, np.ndarray]:
        """All fields, named `<site>/<field>`."""
        return {f"{site}/{name}": np.asarray(value) for name, value in vars(self).items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], site: str) -> SiteStatistics:
        own = {field.name: arrays[f"{site}/{field.name}"] for field in fields(cls)}
        return cls(**own | {"count": own["count"].item()})

    def norm_quantiles(self, quantiles: Sequence[float] = QUANTILES) -> dict[str, float]:
        """Quantile -> norm, exact at both ends."""
        if not self.count:
            return {}
        reached = np.cumsum(self.norm_counts)
        found = {}
        for quantile in quantiles:
            index = int(np.searchsorted(reached, max(1, int(np.ceil(quantile * self.count)))))
            middle = _LOWEST * _WIDTH ** (int(self.norm_bins[index]) + 0.5)
            exact = {0.0: self.extremes[0], 1.0: self.extremes[1]}
            found[str(quantile)] = float(exact.get(quantile, np.clip(middle, *self.extremes)))
        return found


def statistics_of(values: Tensor, sites: Sequence[str]) -> dict[str, SiteStatistics]:
    """Statistics of `[N, L, d]` at each of L sites, on their own device; `SiteStatistics.of` is the slow twin."""
    found = {}
    for number, site in enumerate(sites):
        exact = values[:, number].double()
        mean = exact.mean(0)
        norms = exact.norm(dim=1).cpu().numpy()
        squares = exact.sub_(mean).square_().sum(0)
        extremes = np.array([norms.min(), norms.max()])
        found[site] = SiteStatistics(len(exact), mean.cpu().numpy(), squares.cpu().numpy(), *binned(norms), extremes)
    return found


def merged(parts: Iterable[dict[str, SiteStatistics]], sites: Sequence[str], size: int) -> dict[str, SiteStatistics]:
    """All parts together, in their order: the same blocks always give the same digits."""
    found = {site: SiteStatistics.empty(size) for site in sites}
    for part in parts:
        found = {site: found[site].merge(part[site]) for site in sites}
    return found


def described(statistics: Mapping[str, SiteStatistics]) -> dict[str, np.ndarray]:
    """`<site>.mean` and `<site>.variance` of each site, `[d]` float64."""
    return {
        f"{site}.{name}": value
        for site, found in statistics.items()
        for name, value in (("mean", found.mean), ("variance", found.variance))
    }


def binned(norms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which bins hold a norm, and how many each."""
    bins = (np.log(np.maximum(norms, _LOWEST) / _LOWEST) / np.log(_WIDTH)).astype(np.int64)
    return np.unique(bins, return_counts=True)


def sketch(ids: np.ndarray) -> np.ndarray:
    """A document's `[4]` uint64 sketch: texts that share most of their 5-grams share at least one entry.

    MinHash in 4 bands of 4: the chance to share one is 1 - (1 - s^4)^4 at a Jaccard similarity of s, so .95 at .85
    and under .01 at .2.
    """
    length = max(len(ids) - _SHINGLE + 1, 1)
    shingles = np.zeros(length, np.uint64)
    with np.errstate(over="ignore"):
        for offset in range(min(_SHINGLE, len(ids))):
            shingles = shingles * np.uint64(0x9E3779B97F4A7C15) + ids[offset : offset + length].astype(np.uint64)
        mixed = (shingles ^ (shingles >> np.uint64(29)))[:, None] * _MULTIPLIERS
        smallest = (mixed ^ (mixed >> np.uint64(32))).min(0).reshape(SKETCH_SIZE, _ROWS_PER_BAND)
        bands = smallest[:, 0]
        for column in smallest.T[1:]:
            bands = bands * np.uint64(0x100000001B3) ^ column
    return bands


def count_near_duplicates(sketches: np.ndarray, splits: np.ndarray, names: Sequence[str]) -> dict[str, int]:
    """Documents that nearly repeat an earlier one (`all`), and by split those that nearly repeat one elsewhere.

    Args:
        sketches: `[N, 4]`, in document order.
        splits: `[N]` indices into `names`.
    """
    repeats = np.zeros(len(sketches), bool)
    leaks = np.zeros(len(sketches), bool)
    for band in sketches.T:
        _, first, inverse = np.unique(band, return_index=True, return_inverse=True)
        repeats |= first[inverse] != np.arange(len(band))
        lowest, highest = np.full(len(first), len(names)), np.full(len(first), -1)
        np.minimum.at(lowest, inverse, splits)
        np.maximum.at(highest, inverse, splits)
        leaks |= (lowest != highest)[inverse]
    return {"all": int(repeats.sum())} | {name: int(leaks[splits == i].sum()) for i, name in enumerate(names)}
