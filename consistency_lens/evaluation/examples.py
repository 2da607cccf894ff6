"""Rows for the card: what the lens made of some held-out rows, and what that does to the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..base.comparing import apply_lens
from ..base.comparing.rows import context_of
from ..base.modeling import LensModel
from ..card import Explanation
from .family import FamilyReport, Seen
from .held_out import HeldOut, moved


@torch.no_grad()
def examples(
    lens: LensModel, family: FamilyReport, data: Any, split: str, count: int | None = None
) -> list[Explanation]:
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
    found: list[Explanation] = []
    frozen = models.first
    family.begin(lens, models, data, HeldOut(split, horizon=0))
    for given in family.shown(lens, models, data, split):
        if count is not None and len(found) >= count:
            break
        batch = moved(given, frozen.device)
        applied = apply_lens(lens, models, batch)
        seen = Seen(applied.code, applied.edits, applied.comparison, lens, models, batch, seed=0)
        baseline, kl = family.baseline(seen), applied.kl.tolist()
        of_mean = applied.comparison.measure(baseline)["kl"].tolist() if baseline else [None] * len(kl)
        for i, described in enumerate(lens.describe(applied.code)):
            before, after = applied.likeliest(frozen.tokenizer, i, 2, applied.comparison.last_column(i))
            found.append(
                Explanation(
                    context=context_of(frozen, i, applied),
                    text=str(described["explanation"]),
                    before=_shown(before),
                    after=_shown(after),
                    score=kl[i],
                    of_mean=of_mean[i],
                )
            )
    return found[:count]


def _shown(pairs: Sequence[tuple[str, float]]) -> str:
    shown = [pair for i, pair in enumerate(pairs) if i == 0 or pair[1] >= 0.1]
    return ", ".join(
        f"{token.strip() if token.strip().isalnum() else repr(token)} {chance:.2f}" for token, chance in shown
    )
