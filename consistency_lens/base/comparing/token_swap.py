"""`TokenSwap`: edits at one position P, measured by passes over P and a horizon alone.

Shapes: B rows, H columns (P and the horizon), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...frozen import Edit, FrozenLM, Prefix
from ...objectives import kl_of, nll_of, top1_of
from .comparison import Comparison


@dataclass(frozen=True)
class TokenSwap(Comparison):
    """The contexts have run once up to P; each edit costs a pass over P and the horizon.

    Args:
        prefix: the contexts, up to P.
    """

    prefix: Prefix

    @classmethod
    @torch.no_grad()
    def of(cls, frozen: FrozenLM, batch: Mapping[str, Any], horizon: int = 0) -> TokenSwap:
        """Run the contexts of a batch once. The horizon is measured as far as a row's true continuation goes."""
        prefix = frozen.prefix(_widened(batch, horizon))
        mask = torch.ones(len(prefix.input_ids), 1 + horizon, dtype=torch.long, device=frozen.device)
        if horizon and prefix.continuation_mask is not None:
            mask[:, 1:] = prefix.continuation_mask[:, :horizon]
        return cls(prefix.logits(horizon=horizon), mask, prefix)

    @property
    def horizon(self) -> int:
        return self.clean.shape[1] - 1

    def repeat(self, times: int) -> TokenSwap:
        return TokenSwap(self.clean, self.mask.repeat_interleave(times, 0), self.prefix.repeat(times))

    def ids(self, row: int) -> list[int]:
        return self.prefix.input_ids[row][self.prefix.mask[row].bool()].tolist()

    def shown_column(self, row: int) -> int:
        """P: what the horizon holds is the text's own."""
        return 0

    def edited(self, edits: Edit | Sequence[Edit]) -> Tensor:
        return self.prefix.logits(edits, self.horizon)

    @torch.no_grad()
    def measure(self, edits: Edit | Sequence[Edit]) -> dict[str, Tensor]:
        """What one set of edits does to each row, `[B]`.

        `kl` at P, `kl_horizon` over P and the horizon, `top1` at P, and `ce`, the cross-entropy on the true next
        token; NaN in a row that has none.
        """
        edited = self.edited(edits)
        found = {"kl": kl_of(self.clean[:, 0], edited[:, 0]), "top1": top1_of(self.clean[:, 0], edited[:, 0])}
        if self.horizon:
            found["kl_horizon"] = self.kl(edited)
        if self.prefix.continuation_ids is not None:
            found["ce"] = nll_of(edited[:, :1], self.prefix.continuation_ids[:, :1].to(edited.device))
            if self.prefix.continuation_mask is not None:
                known = self.prefix.continuation_mask[:, :1].to(edited.device).bool().any(1)
                found["ce"] = torch.where(known, found["ce"], torch.nan)
        return found


def _widened(batch: Mapping[str, Any], horizon: int) -> Mapping[str, Any]:
    """Continuations of at least `horizon` columns: near the ends of documents a whole batch may have shorter ones."""
    if batch.get("continuation_mask") is None or batch["continuation_ids"].shape[1] >= horizon:
        return batch
    names = ("continuation_ids", "continuation_mask")
    return {**batch, **{name: F.pad(batch[name], (0, horizon - batch[name].shape[1])) for name in names}}
