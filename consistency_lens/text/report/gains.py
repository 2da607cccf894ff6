"""What a lens gained since an earlier moment: both on the same rows, their difference with an interval of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from ...evaluation.about import LENS
from ...evaluation.bootstrap import Number
from ...evaluation.quantities import Measured, Numbers
from .definitions import EARLIER_IN_FRONT, IN_FRONT, REWORDED

BEFORE = "before"  # the code of the earlier lens; its traits and its reworded code have the names below
BEFORE_TRAITS, BEFORE_REWORDED = "traits before", "reworded before"
SCORE = "kl_recovered"
TRAITS = (
    "text_nll",
    "text_nll_above_samples",
    "text_nll_above_excerpts",
    "length",
    "repetition",
    "retrieval",
    "distinct",
)


def gains_of(measured: Measured, judged: Iterable[str]) -> dict[str, Numbers]:
    """Number -> `before`, `after` and `gain`. A number over some of the rows is named `subset: number`.

    Args:
        measured: both lenses on the same rows and the same draws: what they have in common drops out of the gain.
        judged: what judges measured.
    """
    found = {}
    for name, after, before in _pairs(measured, judged):
        if after is not None and before is not None:
            draws = {"before": before, "after": after, "gain": after - before}
            numbers = {key: number for key, each in draws.items() if (number := Number.of(each)) is not None}
            if len(numbers) == len(draws):
                found[name] = numbers
    return found


def _pairs(measured: Measured, judged: Iterable[str]) -> Iterator[tuple[str, np.ndarray | None, np.ndarray | None]]:
    hidden = {IN_FRONT, EARLIER_IN_FRONT}
    for subset in ("", *(each for each in measured.samples.subsets if not hidden & set(each.split(" & ")))):
        for name in measured.quantities:
            label = f"{subset}: {name}" if subset else name
            yield label, measured.draws(LENS, name, subset), measured.draws(BEFORE, name, subset)
    for name in judged:
        if "/" not in name:  # by kind there are too few to tell a gain from chance
            yield name, measured.draws(LENS, name), measured.draws(BEFORE, name)
    for name in TRAITS:
        yield name, measured.draws("traits", name), measured.draws(BEFORE_TRAITS, name)
    if hidden <= measured.samples.subsets.keys():
        kept = measured.share(REWORDED, LENS, SCORE, IN_FRONT)
        yield f"survives {REWORDED}", kept, measured.share(BEFORE_REWORDED, BEFORE, SCORE, EARLIER_IN_FRONT)
