"""Columns of a pass: those that are named, and those that meet the vocabulary.

Shapes: B rows, K chosen columns.
"""

from __future__ import annotations

from typing import Any

import torch

from ..errors import BadInput
from .sites import require_whole


def last_columns(count: int, width: int, device: torch.device) -> torch.Tensor:
    """The last so many of `width` columns, as `logits_to_keep`.

    By their index, not as a plain number: of that transformers makes a slice, which lies scattered in memory, and a
    frozen head is then multiplied with each row by itself, instead of with all rows at once.
    """
    return torch.arange(width - count, width, device=device)


def columns_of(positions: int | torch.Tensor, input_ids: torch.Tensor) -> torch.Tensor:
    """`positions` as a `[B, K]` tensor of columns counted from the left."""
    rows, width = input_ids.shape
    require_whole(positions)
    columns = torch.as_tensor(positions, device=input_ids.device).long()
    columns = columns if columns.dim() == 2 else columns.reshape(-1, 1)
    columns = torch.where(columns < 0, columns + width, columns)
    if len(columns) not in (1, rows):
        raise BadInput(
            "positions", list(columns.shape), f"Give one int, or as many rows of them as the batch: {rows}."
        )
    if isinstance(positions, int):
        inside = -width <= positions < width
    else:  # Only where looking costs no wait for the device.
        inside = columns.device.type != "cpu" or bool(((columns >= 0) & (columns < width)).all())
    if not inside:
        raise BadInput(
            "positions", positions, f"The rows have {width} columns: use 0 to {width - 1}, or negative ones."
        )
    return columns.expand(rows, -1)


def require_visible(positions: Any, columns: torch.Tensor | None, mask: torch.Tensor | None) -> None:
    """Raise where an edit stands on padding; only where looking costs no wait for the device."""
    visible = mask if mask is not None and mask.device.type == "cpu" else None
    if visible is not None and columns is not None and not visible.gather(1, columns).all():
        fix = "Give each row columns of its own tokens, counted with its padding."
        raise BadInput("positions", positions, fix, why="a column of padding")
