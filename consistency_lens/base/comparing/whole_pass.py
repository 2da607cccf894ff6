"""`WholePass`: edits anywhere, computed ones and soft tokens included, measured by whole passes.

Shapes: B rows, S columns of `input_ids`, H compared columns, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import BadInput
from ...frozen import Edit, FrozenLM
from ...objectives import log_probability_of, masked_mean, top1_of
from .comparison import Comparison


@dataclass(frozen=True)
class WholePass(Comparison):
    """Each edit costs a pass over all columns; what the edited pass reads may differ from what the clean one read, as
    where soft tokens stand for a text.

    Args:
        frozen: the model that is compared with itself.
        read: what the clean pass reads: `input_ids`, and `attention_mask` where rows are padded.
        batch: what the edited pass reads.
        columns: `[B, H]`, the columns of that batch whose predictions are compared.
        targets: `[B, H]`, the true next tokens there; -1 where a column has none.
    """

    frozen: FrozenLM
    read: Mapping[str, Tensor]
    batch: Mapping[str, Tensor]
    columns: Tensor
    targets: Tensor

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        frozen: FrozenLM,
        batch: Mapping[str, Any],
        columns: Tensor | None = None,
        edited_batch: Mapping[str, Any] | None = None,
        edited_columns: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> WholePass:
        """Run the clean pass.

        Args:
            frozen: the model.
            batch: what the clean pass reads.
            columns: `[B, H]`, the columns to compare; default all.
            edited_batch: what the edited pass reads; default the same.
            edited_columns: `[B, H]`, the columns of it that stand for `columns`; default the same.
            mask: `[B, H]`, which of the columns count; default all that are not padding.
        """
        ids = frozen.input_ids(batch)
        if columns is None:
            columns = torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)
        columns = columns.to(ids.device)
        other = batch if edited_batch is None else edited_batch
        there = columns if edited_columns is None else edited_columns.to(ids.device)
        _require_columns("columns", columns, ids)
        _require_columns("edited_columns", there, frozen.input_ids(other))
        if there.shape != columns.shape:
            shown = f"{list(there.shape)} for {list(columns.shape)}"
            raise BadInput("edited_columns", shown, "Give one column of the edited batch for each compared column.")
        real = batch.get("attention_mask")
        real = torch.ones_like(ids) if real is None else real.to(ids.device)
        mask = real.gather(1, columns) if mask is None else mask.to(ids.device)
        return cls(_at(frozen, batch, columns, ()), mask, frozen, batch, other, there, _targets(ids, real, columns))

    def repeat(self, times: int) -> WholePass:
        read, batch = (_repeated(each, times) for each in (self.read, self.batch))
        mask, columns, targets = (x.repeat_interleave(times, 0) for x in (self.mask, self.columns, self.targets))
        return WholePass(self.clean, mask, self.frozen, read, batch, columns, targets)

    def ids(self, row: int) -> list[int]:
        ids, mask = self.frozen.input_ids(self.read), self.read.get("attention_mask")
        kept = ids[row] if mask is None else ids[row][mask[row].bool().to(ids.device)]
        return kept.tolist()

    def edited(self, edits: Edit | Sequence[Edit]) -> Tensor:
        return _at(self.frozen, self.batch, self.columns, edits)

    @torch.no_grad()
    def measure(self, edits: Edit | Sequence[Edit]) -> dict[str, Tensor]:
        """What one set of edits does to each row, `[B]`: `kl`, `top1`, and `ce`, the cross-entropy on the true next
        tokens, each a mean over the row's compared columns."""
        edited = self.edited(edits)
        known = self.mask * (self.targets >= 0)
        nll = -log_probability_of(edited, self.targets.clamp_min(0))
        return {
            "kl": self.kl(edited),
            "top1": masked_mean(top1_of(self.clean, edited), self.mask),
            "ce": torch.where(known.any(1), masked_mean(nll, known), torch.nan),
        }


def _repeated(batch: Mapping[str, Tensor], times: int) -> dict[str, Tensor]:
    names = ("input_ids", "attention_mask")
    return {name: batch[name].repeat_interleave(times, 0) for name in names if name in batch}


def _at(frozen: FrozenLM, batch: Mapping[str, Any], columns: Tensor, edits: Edit | Sequence[Edit]) -> Tensor:
    """Logits at some columns `[B, H, V]`; those before the first of them never meet the vocabulary."""
    first, width = int(columns.min()), frozen.input_ids(batch).shape[1]
    logits = frozen.logits(batch, edits, keep=width - first)
    places = (columns - first).unsqueeze(-1)
    return logits.gather(1, places.expand(-1, -1, logits.shape[-1]))


def _targets(ids: Tensor, real: Tensor, columns: Tensor) -> Tensor:
    """The token that follows each column in the text; -1 at a row's last one."""
    following = torch.where(real[:, 1:].bool() & real[:, :-1].bool(), ids[:, 1:], -1)
    return torch.nn.functional.pad(following, (0, 1), value=-1).gather(1, columns)


def _require_columns(field: str, columns: Tensor, ids: Tensor) -> None:
    if columns.dim() != 2 or len(columns) != len(ids) or not columns.shape[1]:
        fix = f"Give the columns of each of the {len(ids)} rows, [B, H]."
        raise BadInput(field, f"shape {list(columns.shape)}", fix)
    if int(columns.min()) < 0 or int(columns.max()) >= ids.shape[1]:
        fix = f"Use 0 to {ids.shape[1] - 1}."
        raise BadInput(field, f"{int(columns.min())} to {int(columns.max())}", fix)
