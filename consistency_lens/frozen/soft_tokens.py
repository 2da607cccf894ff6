"""Soft tokens in front of a row's own tokens: how a `prepend` edit enters the embedding sequence.

The soft tokens stand directly beside the row's tokens, not outside its padding, so that a sliding window counts the
same distances as it would for a row without padding.

Shapes: B rows, S columns of `input_ids`, N soft tokens, d hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from ..errors import BadInput
from .sites import Edit


def positions_from(mask: torch.Tensor) -> torch.Tensor:
    """Position of each column's token within its row, padding left out of the count."""
    return (mask.long().cumsum(1) - 1).clamp_min(0)


class SoftTokens:
    """All `prepend` edits of one pass.

    Attributes:
        order: `[B, N + S]`: for each column of the longer sequence, its column in [soft tokens, own tokens].
        own_columns: `[B, S]`: where each own token went.
    """

    def __init__(self, edits: Sequence[Edit], inputs: Mapping[str, torch.Tensor], hidden_size: int) -> None:
        ids = inputs["input_ids"]
        mask = inputs["attention_mask"] if "attention_mask" in inputs else torch.ones_like(ids)
        # Number each row's own tokens 0, 1, ...; padding in front comes first; soft tokens fit in between.
        keys = torch.where(mask.bool(), mask.cumsum(1) - 1.0, -1.0)
        values, soft_keys, soft_masks = [], [], []
        for edit in edits:
            value = edit.tensor if edit.tensor.dim() == 3 else edit.tensor.unsqueeze(0)
            if value.dim() != 3 or len(value) not in (1, len(ids)) or value.shape[2] != hidden_size:
                shape = f"[K, {hidden_size}], or [{len(ids)}, K, {hidden_size}] for {len(ids)} rows"
                raise BadInput("value", list(edit.tensor.shape), f"Give {shape}.", why="mode is 'prepend'")
            values.append(value.expand(len(ids), -1, -1))
            assert isinstance(edit.positions, int)
            # A tensor is looked at only where that costs no wait for the device.
            longest = ids.shape[1] if mask.device.type != "cpu" else int(mask.sum(1).min())
            if edit.positions > longest:
                fix = f"The shortest row has {longest} tokens of its own, and no more can stay in front."
                raise BadInput("positions", edit.positions, fix, why="mode is 'prepend'")
            there = _mask_of(edit, len(ids), value.shape[1]).to(ids.device)
            soft_keys.append(torch.where(there, edit.positions - 0.5, -1.0))  # or with the padding in front
            soft_masks.append(there.to(mask))
        self.values = values
        self.num_soft = sum(value.shape[1] for value in values)
        # Padding on the right has nothing after it to keep away from: it stays last.
        after_last = mask.bool().cumsum(1).eq(mask.sum(1, keepdim=True)) & ~mask.bool()
        keys = torch.where(after_last, float(ids.shape[1]), keys)
        self.order = torch.cat([*soft_keys, keys], dim=1).argsort(dim=1, stable=True)
        self.own_columns = self.order.argsort(dim=1)[:, self.num_soft :]
        self.mask = torch.cat([*soft_masks, mask], dim=1).gather(1, self.order)

    @classmethod
    def gather(cls, edits: Sequence[Edit], inputs: Mapping[str, torch.Tensor], hidden_size: int) -> SoftTokens | None:
        return cls(edits, inputs, hidden_size) if edits else None

    def moved(self, columns: torch.Tensor | None) -> torch.Tensor:
        """Columns of `input_ids`, None for all of them, as columns of the longer sequence."""
        return self.own_columns if columns is None else self.own_columns.gather(1, columns)

    def splice(self, embeddings: torch.Tensor) -> dict[str, torch.Tensor]:
        """The model's inputs for the longer sequence, from the own tokens' embeddings `[B, S, d]`."""
        together = torch.cat([*(value.to(embeddings) for value in self.values), embeddings], dim=1)
        order = self.order.unsqueeze(-1).expand(-1, -1, together.shape[-1])
        return {
            "inputs_embeds": together.gather(1, order),
            "attention_mask": self.mask,
            "position_ids": positions_from(self.mask),
        }


def _mask_of(edit: Edit, rows: int, count: int) -> torch.Tensor:
    """`[B, K]`: which of an edit's soft tokens each row has."""
    if edit.mask is None:
        return torch.ones(rows, count, dtype=torch.bool)
    if edit.mask.shape != (rows, count):
        fix = f"Give [{rows}, {count}]: {count} soft tokens for {rows} rows."
        raise BadInput("mask", list(edit.mask.shape), fix, why="mode is 'prepend'")
    return edit.mask.bool()
