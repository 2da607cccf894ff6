"""Which columns of a pass meet the vocabulary."""

from __future__ import annotations

import torch


def last_columns(count: int, width: int, device: torch.device) -> torch.Tensor:
    """The last so many of `width` columns, as `logits_to_keep`.

    By their index, not as a plain number: of that transformers makes a slice, which lies scattered in memory, and a
    frozen head is then multiplied with each row by itself, instead of with all rows at once.
    """
    return torch.arange(width - count, width, device=device)
