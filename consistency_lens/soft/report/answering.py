"""`Answering`: one model that reads the text against the same model that reads a code, over the tokens of an answer.

Shapes: B rows, K tokens of the longest answer, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor

from ...base.comparing import WholePass
from ...frozen import Edit, FrozenLM
from ...objectives import answer_nll_of, first_token_of, masked_mean, top1_of


class Answering(WholePass):
    """As `WholePass`, with the numbers of answers."""

    @classmethod
    def among(cls, model: FrozenLM, tokens: Mapping[str, Any]) -> Self:
        """`full` against `bare`, at the K columns that predict the answer.

        Args:
            model: a receiver.
            tokens: of a batch of passages, for this model.
        """
        ids, mask = (tokens[name].to(model.device) for name in ("answer_ids", "answer_mask"))
        count = ids.shape[1]
        columns = [
            torch.arange(width - count, width, device=model.device).expand(len(ids), -1)
            for width in (tokens[name]["input_ids"].shape[1] for name in ("full", "bare"))
        ]
        compared: Any = cls.of(model, tokens["full"], columns[0], tokens["bare"], columns[1], mask)
        # The last token of the longest answer stands in no sequence.
        return replace(compared, targets=torch.where(mask.bool(), ids, -1))

    def ids(self, row: int) -> list[int]:
        """Up to the column that predicts the answer's first token."""
        return super().ids(row)[: 1 - int(self.mask[row].sum()) or None]

    def shown_column(self, row: int) -> int:
        """That of the answer's first token; the last one predicts that the answer ends."""
        return 0

    @torch.no_grad()
    def measure(self, edits: Edit | Sequence[Edit]) -> dict[str, Tensor]:
        """`kl`, `top1`, `nll` and `first_token` of each row, `[B]`."""
        return self.numbers(self.edited(edits))

    def numbers(self, logits: Tensor) -> dict[str, Tensor]:
        """The same of logits `[B, K, V]` at the columns that predict the answer."""
        ids = self.targets.clamp_min(0)
        return {
            "kl": self.kl(logits),
            "top1": masked_mean(top1_of(self.clean, logits), self.mask),
            "nll": answer_nll_of(logits, ids, self.mask),
            "first_token": first_token_of(logits, ids),
        }
