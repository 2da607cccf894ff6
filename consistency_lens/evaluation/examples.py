"""Rows for the card: what the lens made of some held-out rows, and what that does to the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from ..base.explaining import likeliest
from ..base.fidelity import Bench
from ..base.modeling import LensModel
from ..base.samples import marked
from ..card import Explanation
from .family import FamilyReport, Seen
from .held_out import moved


@torch.no_grad()
def examples(lens: LensModel, family: FamilyReport, batches: Iterable[Mapping[str, Any]]) -> list[Explanation]:
    """One per row; `family` has begun with this lens."""
    frozen, found = lens.subject, []
    assert frozen is not None
    for given in batches:
        batch = moved(given, frozen.device)
        comparison = Bench.of(frozen, batch)
        seen = Seen(lens, frozen, batch, comparison, lens.compress(batch), 0)
        edits, baseline = lens.restore(seen.code, batch), family.baseline(seen)
        kl = comparison.judge(edits)["kl"]
        of_mean = comparison.judge(baseline)["kl"].tolist() if baseline else [None] * len(kl)
        edited, prefix = comparison.edited(edits), comparison.prefix
        for i, described in enumerate(lens.spell(seen.code)):
            own = prefix.input_ids[i][prefix.mask[i].bool()].tolist()
            found.append(
                Explanation(
                    context=marked(frozen.tokenizer, own),
                    text=str(described["explanation"]),
                    before=_likeliest(frozen.tokenizer, comparison.clean[i, 0]),
                    after=_likeliest(frozen.tokenizer, edited[i, 0]),
                    score=float(kl[i]),
                    of_mean=of_mean[i],
                )
            )
    return found


def _likeliest(tokenizer: Any, logits: torch.Tensor) -> str:
    pairs = likeliest(tokenizer, logits, 2)
    shown = [pair for i, pair in enumerate(pairs) if i == 0 or pair[1] >= 0.1]
    return ", ".join(
        f"{token.strip() if token.strip().isalnum() else repr(token)} {chance:.2f}" for token, chance in shown
    )
