"""Which tokens of a passage one vector stands for: runs of neighbours of nearly equal length.

Shapes: B rows, P tokens of the longest passage, M vectors of the longest code.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..configuration import require_ratio


def counts_of(lengths: Tensor, slots: int | None, ratio: float | None) -> Tensor:
    """How many vectors each row has, `[B]`: never more than it has tokens.

    Args:
        lengths: tokens of each row, `[B]`.
        slots: so many for every row, or None.
        ratio: tokens for each vector, where `slots` is None.
    """
    if slots is not None:
        return lengths.clamp(max=slots)
    assert ratio is not None
    require_ratio(ratio)
    return torch.minimum((lengths / ratio).ceil().long(), lengths)


def window_of(lengths: Tensor, counts: Tensor, width: int) -> Tensor:
    """The number of the vector that each token belongs to, `[B, P]`, from 0; of padding, beyond the row's own."""
    places = torch.arange(width, device=lengths.device)
    return places * counts[:, None] // lengths[:, None].clamp_min(1)


def means_over(values: Tensor, windows: Tensor, mask: Tensor, count: int) -> Tensor:
    """The mean of each window's tokens: `[B, P, d]` to `[B, M, d]`; 0 where a row has no such window.

    Args:
        values: of each token.
        windows: as `window_of` numbers them.
        mask: `[B, P]`, the tokens that a row has.
        count: M.
    """
    chosen = (windows[:, None] == torch.arange(count, device=windows.device)[:, None]) & mask.bool()[:, None]
    weights = chosen.to(values.dtype)
    return weights @ values / weights.sum(-1, keepdim=True).clamp_min(1)
