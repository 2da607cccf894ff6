"""Causal decoders: features of source layer i write to targets i and above, and nothing below is stored or multiplied.

The decoder of source i is one matrix `[F, n·d]`, a row per feature with what it writes to each of its n targets (n is
L - i, or 1 without crosslayer). Each source is decoded by a dense product, or by sums over its active entries.

Shapes: N tokens, L layers, d hidden size, F features, n targets of a source.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .encoding import Active, is_sparse
from .entries import Entries, sum_by_feature, sum_by_token


class _AddAt(torch.autograd.Function):
    """Add to some columns of a matrix in place: one buffer for the sums of all sources."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, piece: Tensor, start: int) -> Tensor:
        ctx.columns = slice(start, start + piece.shape[1])
        total[:, ctx.columns] += piece
        ctx.mark_dirty(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (grad,) = grads
        return grad, grad[:, ctx.columns], None


class _FewActive(torch.autograd.Function):
    """f W of a dense f with few entries that are not 0. Its own gradient is dense: thresholds need it everywhere."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor) -> Tensor:
        ctx.entries = Entries.where(features != 0, features)
        ctx.save_for_backward(weight)
        return sum_by_token(ctx.entries, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (grad,) = grads
        (weight,) = ctx.saved_tensors
        to_features = grad @ weight.T if ctx.needs_input_grad[0] else None
        to_weight = sum_by_feature(ctx.entries, grad.contiguous()) if ctx.needs_input_grad[1] else None
        return to_features, to_weight


def product(active: Active, weight: Tensor, limit: float | None = None) -> Tensor:
    """f W, `[N, D]`, by whatever is fastest for so many active features."""
    if isinstance(active, Entries):
        return sum_by_token(active, weight)
    if is_sparse(active.detach() != 0, limit):
        result: Tensor = _FewActive.apply(active, weight)
        return result
    return active @ weight


def causal_decode(
    active: Sequence[Active], decoders: Sequence[Tensor], size: int, limit: float | None = None
) -> Tensor:
    """Sum what all sources write.

    Args:
        active: features of each source layer.
        decoders: `[F, n·d]` of each source layer.
        size: d.
        limit: as for `activate`.

    Returns:
        `[N, L, d]`.
    """
    tokens, count = active[0].shape[0], len(active)
    total = decoders[0].new_zeros(tokens, count * size)
    for source, (found, weight) in enumerate(zip(active, decoders, strict=True)):
        total = _AddAt.apply(total, product(found, weight, limit), source * size)
    return total.view(tokens, count, size)


def tied_decode(active: Sequence[Active], decoders: Sequence[Tensor], limit: float | None = None) -> Tensor:
    """The same with one decoder `[F, d]` per target, which all sources up to it share: `[N, L, d]`."""
    size, count = decoders[0].shape[1], len(active)
    total = decoders[0].new_zeros(active[0].shape[0], count * size)
    below: Tensor | None = None  # the sum of all dense features so far
    for target, weight in enumerate(decoders):
        newest = active[target]
        if isinstance(newest, Tensor):
            below = newest if below is None else below + newest
        if below is not None:
            total = _AddAt.apply(total, product(below, weight, limit), target * size)
        for found in active[: target + 1]:
            if isinstance(found, Entries):
                total = _AddAt.apply(total, sum_by_token(found, weight), target * size)
    return total.view(-1, count, size)


def untied(decoders: Sequence[Tensor]) -> list[Tensor]:
    """Tied decoders written out, source by source, as `causal_decode` takes them."""
    return [torch.cat([*decoders[source:]], dim=1) for source in range(len(decoders))]
