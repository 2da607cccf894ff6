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

from .encoding import Active, break_even, dtype_of_products, is_sparse
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
    def forward(ctx: Any, features: Tensor, weight: Tensor, entries: Entries) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.dtype = dtype_of_products(features)
        return sum_by_token(entries, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return (grads[0].to(ctx.dtype) @ weight.T.to(ctx.dtype)).to(weight.dtype), None, None


class _OfWeights(torch.autograd.Function):
    """Hands on a product f W as it is, with the lengths of the rows of W. Both gradients of W are made here, in one
    tensor of its size: on a CPU each further one costs as much as the sums themselves."""

    @staticmethod
    def forward(ctx: Any, written: Tensor, weight: Tensor, active: Active) -> tuple[Tensor, Tensor]:
        lengths = weight.norm(dim=1)
        ctx.save_for_backward(weight, lengths)
        ctx.active = active
        ctx.set_materialize_grads(False)
        return written.view_as(written), lengths

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, Tensor | None, None]:
        to_written, to_lengths = grads
        weight, lengths = ctx.saved_tensors
        to_weight = None
        if to_written is not None:
            if isinstance(ctx.active, Entries):
                to_written = to_written.contiguous()
                to_weight = sum_by_feature(ctx.active, to_written)
            else:
                to_weight = (ctx.active.T.to(to_written.dtype) @ to_written).to(weight.dtype)
        if to_lengths is not None:
            factor = (to_lengths / lengths.clamp_min(1e-12)).unsqueeze(1)
            to_weight = weight * factor if to_weight is None else to_weight.addcmul_(weight, factor)
        return to_written, to_weight, None


def product(active: Active, weight: Tensor, limit: float | None = None) -> tuple[Tensor, Tensor]:
    """f W `[N, D]`, by whatever is fastest for so many active features, and the lengths of the rows of W, `[F]`.

    Args:
        active: f.
        weight: W, `[F, D]`.
        limit: the share of active entries up to which they alone are summed; default as measured for the device.
    """
    limit = break_even(weight) if limit is None else limit
    fixed, known = weight.detach(), active
    if isinstance(active, Entries):
        written = sum_by_token(active, fixed)
        known = active.detach()
    elif is_sparse(active.detach() != 0, limit):
        known = Entries.where(active.detach() != 0, active.detach())
        written = _FewActive.apply(active, fixed, known)
    else:
        written, known = active @ fixed, active.detach()
    result: tuple[Tensor, Tensor] = _OfWeights.apply(written, weight, known)
    return result


def causal_decode(
    active: Sequence[Active], decoders: Sequence[Tensor], size: int, limit: float | None = None
) -> tuple[Tensor, list[Tensor]]:
    """Sum what all sources write.

    Args:
        active: features of each source layer.
        decoders: `[F, n·d]` of each source layer.
        size: d.
        limit: as for `product`.

    Returns:
        `[N, L, d]`, and of each source the lengths of what its features write, `[F]`.
    """
    tokens, count = active[0].shape[0], len(active)
    total, lengths = decoders[0].new_zeros(tokens, count * size), []
    for source, (found, weight) in enumerate(zip(active, decoders, strict=True)):
        written, own = product(found, weight, limit)
        total = _AddAt.apply(total, written, source * size)
        lengths.append(own)
    return total.view(tokens, count, size), lengths


def tied_decode(
    active: Sequence[Active], decoders: Sequence[Tensor], limit: float | None = None
) -> tuple[Tensor, list[Tensor]]:
    """The same with one decoder `[F, d]` per target, which all sources up to it share."""
    size, count = decoders[0].shape[1], len(active)
    total, squares = decoders[0].new_zeros(active[0].shape[0], count * size), []
    below: Tensor | None = None  # the sum of all dense features so far
    for target, weight in enumerate(decoders):
        newest = active[target]
        if isinstance(newest, Tensor):
            below = newest if below is None else below + newest
        if below is not None:
            total = _AddAt.apply(total, product(below, weight, limit)[0], target * size)
        for found in active[: target + 1]:
            if isinstance(found, Entries):
                total = _AddAt.apply(total, product(found, weight)[0], target * size)
        squares.append(weight.square().sum(1))
    lengths = [torch.stack(squares[source:]).sum(0).sqrt() for source in range(count)]
    return total.view(-1, count, size), lengths


def untied(decoders: Sequence[Tensor]) -> list[Tensor]:
    """Tied decoders written out, source by source, as `causal_decode` takes them."""
    return [torch.cat([*decoders[source:]], dim=1) for source in range(len(decoders))]
