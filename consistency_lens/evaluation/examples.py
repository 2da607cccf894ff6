"""Rows of the card: what the lens made of some held-out rows, and what that does to the model."""

from __future__ import annotations

from typing import Any

import torch

from ..base.comparing import apply_lens
from ..base.comparing.rows import context_of, rows_of
from ..base.modeling import LensModel
from .family import FamilyReport, Seen
from .held_out import HeldOut, moved

TOP = 2  # likeliest next tokens


@torch.no_grad()
def examples(
    lens: LensModel, family: FamilyReport, data: Any, split: str, count: int | None = None
) -> list[dict[str, Any]]:
    """One per row of those that the family shows.

    Args:
        lens: with its models.
        family: of the lens; a new instance.
        data: that the lens was evaluated on.
        split: of the data.
        count: how many, the first ones; default all.
    """
    models = lens.models
    assert models is not None
    found: list[dict[str, Any]] = []
    frozen = models.first
    family.begin(lens, models, data, HeldOut(split, horizon=0))
    for given in family.shown(lens, models, data, split):
        if count is not None and len(found) >= count:
            break
        batch = moved(given, frozen.device)
        applied = apply_lens(lens, models, batch)
        seen = Seen(applied.code, applied.edits, applied.comparison, lens, models, batch, seed=0)
        baseline = family.baseline(seen)
        kl = applied.comparison.measure(baseline)["kl"].tolist() if baseline else [None] * len(applied.code)
        for i, row in enumerate(rows_of(lens, frozen, applied, batch, TOP)):
            found.append({"context": context_of(frozen, i, applied), **row, "kl_of_baseline": kl[i]})
    return found[:count]
