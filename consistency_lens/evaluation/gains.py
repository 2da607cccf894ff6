"""What a lens gained since an earlier moment: both on the same rows, their difference with an interval of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from .controls import LENS, REWORDED
from .definitions import NUMBERS
from .numbers import Numbers, draws_of, retention_of
from .samples import Number, Samples

TRAITS = (
    "text_nll",
    "text_nll_above_samples",
    "text_nll_above_excerpts",
    "length",
    "repetition",
    "retrieval",
    "distinct",
)


def gains_of(now: Samples, earlier: Samples, judged: Iterable[str]) -> dict[str, Numbers]:
    """Number -> `before`, `after` and `gain`. A number over some of the rows is named `subset: number`.

    Args:
        now, earlier: of the same rows and the same draws, so that what both have in common drops out of the gain.
        judged: what judges measured.
    """
    found: dict[str, Numbers] = {}
    for name, after, before in _pairs(now, earlier, judged):
        numbers = {"before": Number.of(before), "after": Number.of(after), "gain": Number.of(after - before)}
        if all(numbers.values()):
            found[name] = {key: number for key, number in numbers.items() if number is not None}
    return found


def _pairs(now: Samples, earlier: Samples, judged: Iterable[str]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    for subset in ("", *now.subsets):
        for name in NUMBERS:
            label = f"{subset}: {name}" if subset else name
            yield from _both(label, draws_of(now, LENS, name, subset), draws_of(earlier, LENS, name, subset))
    for name in judged:
        if "/" not in name:  # by kind there are too few to tell a gain from chance
            yield from _both(name, draws_of(now, LENS, name), draws_of(earlier, LENS, name))
    for name in TRAITS:
        yield from _both(name, draws_of(now, "traits", name), draws_of(earlier, "traits", name))
    label = f"survives {REWORDED}"
    yield from _both(label, *(retention_of(each, REWORDED, LENS, "kl_recovered") for each in (now, earlier)))


def _both(
    label: str, after: np.ndarray | None, before: np.ndarray | None
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    if after is not None and before is not None:
        yield label, after, before
