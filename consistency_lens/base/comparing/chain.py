"""Compress, restore, compare, and what the model predicts then: written once for training, report, card and explorer.

Shapes: B rows, H compared columns, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ...frozen import Edit, FrozenLM, FrozenModels
from ..lens import Code, Lens
from .comparison import Comparison

Likeliest = list[tuple[str, float]]  # tokens with their probabilities


@dataclass(frozen=True)
class Applied:
    """What a lens made of a batch, and what the frozen model predicts with it in place.

    Args:
        code: what the lens compressed the batch into.
        edits: what it restored from the code.
        comparison: the clean pass.
    """

    code: Code
    edits: list[Edit]
    comparison: Comparison

    @cached_property
    def edited(self) -> Tensor:
        """Logits with the edits in place, `[B, H, V]`."""
        with torch.no_grad():
            return self.comparison.edited(self.edits)

    @property
    def kl(self) -> Tensor:
        """Mean over a row's columns, `[B]`."""
        return self.comparison.kl(self.edited)

    def likeliest(self, tokenizer: Any, row: int, top: int, column: int = 0) -> tuple[Likeliest, Likeliest]:
        """The likeliest next tokens of a row at one of its columns, without the edits and with them."""
        before, after = self.comparison.clean[row, column], self.edited[row, column]
        return likeliest(tokenizer, before, top), likeliest(tokenizer, after, top)


@torch.no_grad()
def apply_lens(lens: Lens, frozen: FrozenLM | FrozenModels, batch: Mapping[str, Any], horizon: int = 0) -> Applied:
    """Compress a batch, restore it, and set up the comparison that the lens asks for.

    Args:
        lens: in eval mode.
        frozen: the model, or the models, that the lens was made for.
        batch: as the family's collator makes it.
        horizon: true next positions to compare as well, where the comparison has a horizon.
    """
    comparison = lens.comparison(FrozenModels.of(frozen), batch, horizon)
    code = lens.compress(batch)
    return Applied(code, lens.restore(code, batch), comparison)


def beside(tokenizer: Any, before: Tensor, after: Tensor, top: int) -> tuple[Likeliest, Likeliest]:
    """The likeliest next tokens of either of two logits `[V]`, each with its probability on both sides; those that are
    likely anywhere first, and one more than the `top` at most."""
    chances = [logits.float().softmax(-1) for logits in (before, after)]
    ids = dict.fromkeys(i for side in chances for i in side.topk(top).indices.tolist())
    ordered = sorted(ids, key=lambda i: -max(float(side[i]) for side in chances))[: top + 1]
    first, second = ([(tokenizer.decode([i]), float(side[i])) for i in ordered] for side in chances)
    return first, second


def likeliest(tokenizer: Any, logits: Tensor, top: int) -> Likeliest:
    """The `top` likeliest next tokens with their probabilities."""
    chances, ids = logits.float().softmax(-1).topk(top)
    return [(tokenizer.decode(i), float(p)) for i, p in zip(ids.tolist(), chances, strict=True)]
