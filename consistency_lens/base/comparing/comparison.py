"""`Comparison`: a batch whose clean predictions are known, against which edits are measured.

Shapes: B rows, H compared columns, V vocabulary, d hidden size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from ...frozen import Edit
from ...objectives import cosine_of, kl_of, norm_ratio_of


@dataclass(frozen=True)
class Comparison(ABC):
    """What a frozen model predicts untouched, and a way to ask what it predicts with edits in place.

    Args:
        clean: logits of the untouched model at the compared columns, `[B, H, V]`; of a comparison that was repeated,
            still one row for all the rows that were made from it.
        mask: `[B, H]`, the columns that a row has.
    """

    clean: Tensor
    mask: Tensor

    @abstractmethod
    def edited(self, edits: Edit | Sequence[Edit]) -> Tensor:
        """Logits of the edited model at the same columns, `[B, H, V]`, with gradient."""

    @abstractmethod
    def measure(self, edits: Edit | Sequence[Edit]) -> dict[str, Tensor]:
        """What one set of edits does to each row, without gradient: `kl`, `top1` and more, `[B]` each."""

    @abstractmethod
    def repeat(self, times: int) -> Self:
        """The same rows, each `times` in a row: several codes of one input share its clean pass."""

    @abstractmethod
    def ids(self, row: int) -> list[int]:
        """The tokens of a row that the clean pass read, without padding."""

    def shown_column(self, row: int) -> int:
        """The compared column of a row whose predictions are shown to people: the last."""
        return int(self.mask[row].nonzero().max())

    def kl(self, edited: Tensor) -> Tensor:
        """KL(clean || edited), mean over a row's columns, `[B]`: the term of the objective."""
        return kl_of(self.clean, edited, self.mask)


@torch.no_grad()
def compare_vectors(restored: Tensor, original: Tensor) -> dict[str, Tensor]:
    """How near a restored vector is to the original, per row `[B]`."""
    return {
        "cosine": cosine_of(restored, original),
        "norm_ratio": norm_ratio_of(restored, original),
        "squared_error": (restored.float() - original.float()).square().sum(-1),
    }
