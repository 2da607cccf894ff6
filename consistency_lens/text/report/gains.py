"""What a lens gained since an earlier moment: both on the same rows, their difference with an interval of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from ...evaluation.about import LENS
from ...evaluation.bootstrap import Samples
from ...evaluation.family import gain_of
from ...evaluation.quantities import AT_P, Numbers, draws_of, retention_of
from .definitions import REWORDED

BEFORE = "before"  # the code of the earlier lens; its traits and its reworded code have the names below
BEFORE_TRAITS, BEFORE_REWORDED = "traits before", "reworded before"
TRAITS = (
    "text_nll",
    "text_nll_above_samples",
    "text_nll_above_excerpts",
    "length",
    "repetition",
    "retrieval",
    "distinct",
)
Draws = np.ndarray | None


def gains_of(samples: Samples, judged: Iterable[str]) -> dict[str, Numbers]:
    """Number -> `before`, `after` and `gain`. A number over some of the rows is named `subset: number`.

    Args:
        samples: of the same rows and the same draws, so that what both have in common drops out of the gain.
        judged: what judges measured.
    """
    found = {
        name: gain_of(after, before)
        for name, after, before in _pairs(samples, judged)
        if after is not None and before is not None
    }
    return {name: numbers for name, numbers in found.items() if numbers is not None}


def _pairs(samples: Samples, judged: Iterable[str]) -> Iterator[tuple[str, Draws, Draws]]:
    def both(label: str, code: str, before: str, name: str, subset: str = "") -> tuple[str, Draws, Draws]:
        return label, draws_of(samples, code, name, subset), draws_of(samples, before, name, subset)

    for subset in ("", *samples.subsets):
        for name in AT_P:
            yield both(f"{subset}: {name}" if subset else name, LENS, BEFORE, name, subset)
    for name in judged:
        if "/" not in name:  # by kind there are too few to tell a gain from chance
            yield both(name, LENS, BEFORE, name)
    for name in TRAITS:
        yield both(name, "traits", BEFORE_TRAITS, name)
    kept = [(REWORDED, LENS), (BEFORE_REWORDED, BEFORE)]
    after, before = (retention_of(samples, *codes, "kl_recovered") for codes in kept)
    yield f"survives {REWORDED}", after, before
