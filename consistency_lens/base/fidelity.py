"""The judge: what the subject says when restored activations take the place of its own. One code path for training,
evaluation and every control.

Shapes: B rows, H columns (P and the horizon), V vocabulary, d hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import BadInput
from ..frozen import Edit, FrozenLM, Prefix
from ..objectives import cosine_of, kl_of, nll_of, norm_ratio_of, top1_of


@dataclass(frozen=True)
class Bench:
    """A batch on which edits are judged: its prefix has run, and what the subject says untouched is known.

    Args:
        prefix: the contexts, up to P.
        clean: logits of the untouched subject at P and the horizon, `[B, H, V]`; of a bench that was repeated, still
            one row for all the rows that it was made of.
        mask: `[B, H]`, which columns a row has; P always counts.
    """

    prefix: Prefix
    clean: Tensor
    mask: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, frozen: FrozenLM, batch: Mapping[str, Any], horizon: int = 0) -> Bench:
        """Run the contexts of a batch once. The horizon is measured as far as a row's true continuation goes."""
        prefix = frozen.prefix(_widened(batch, horizon))
        mask = torch.ones(len(prefix.input_ids), 1 + horizon, dtype=torch.long, device=frozen.device)
        if horizon and prefix.continuation_mask is not None:
            mask[:, 1:] = prefix.continuation_mask[:, :horizon]
        return cls(prefix, prefix.logits(horizon=horizon), mask)

    @property
    def horizon(self) -> int:
        return self.clean.shape[1] - 1

    def repeat(self, times: int) -> Bench:
        """The same with each row `times` in a row: several codes per activation."""
        return Bench(self.prefix.repeat(times), self.clean, self.mask.repeat_interleave(times, 0))

    def edited(self, edits: Edit | Sequence[Edit]) -> Tensor:
        """Logits of the edited subject, `[B, H, V]`, with gradient."""
        return self.prefix.logits(edits, self.horizon)

    def kl(self, edited: Tensor) -> Tensor:
        """KL(M(A) || M(A*)), mean over P and the horizon, `[B]`: the term of the objective."""
        return kl_of(self.clean, edited, self.mask)

    @torch.no_grad()
    def judge(self, edits: Edit | Sequence[Edit]) -> dict[str, Tensor]:
        """What one set of edits does, per row `[B]`.

        `kl` at P, `kl_horizon` over P and the horizon, `top1` at P, and `ce`, the cross-entropy on the true next
        token.
        """
        edited = self.edited(edits)
        found = {"kl": kl_of(self.clean[:, 0], edited[:, 0]), "top1": top1_of(self.clean[:, 0], edited[:, 0])}
        if self.horizon:
            found["kl_horizon"] = self.kl(edited)
        if self.prefix.continuation_ids is not None:
            found["ce"] = nll_of(edited[:, :1], self.prefix.continuation_ids[:, :1].to(edited.device))
        return found


def _widened(batch: Mapping[str, Any], horizon: int) -> Mapping[str, Any]:
    """Continuations of at least `horizon` columns: near the ends of documents a whole batch may have shorter ones."""
    if batch.get("continuation_mask") is None or batch["continuation_ids"].shape[1] >= horizon:
        return batch
    names = ("continuation_ids", "continuation_mask")
    return {**batch, **{name: F.pad(batch[name], (0, horizon - batch[name].shape[1])) for name in names}}


@torch.no_grad()
def compare(restored: Tensor, original: Tensor) -> dict[str, Tensor]:
    """How near a restored vector is to the original, per row `[B]`."""
    return {
        "cosine": cosine_of(restored, original),
        "norm_ratio": norm_ratio_of(restored, original),
        "squared_error": (restored.float() - original.float()).square().sum(-1),
    }


def only_site(sites: Sequence[str] | None) -> str:
    """The one site of a lens that reads one."""
    if not sites or len(sites) != 1:
        raise BadInput("sites", list(sites or []), "This lens reads exactly one site.")
    return sites[0]
