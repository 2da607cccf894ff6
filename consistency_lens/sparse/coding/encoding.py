"""From activations to active features: dense where many are active, and on the active entries alone where few are.

The pre-activations are computed once, without gradient. Only then is it known how many features are active, and the
gradient is attached to all pre-activations or to the chosen ones.

Shapes: N tokens, d hidden size, F features, E entries.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .entries import Entries, sum_by_feature, sum_by_token
from .nonlinear import in_reach, jumprelu

# The share of active entries from which dense products are faster than sums over entries, in a training step. On a
# CPU by benchmarks/transcoder.py, for decoders that its caches hold and for larger ones; on a GPU by arithmetic alone
# (memory bandwidth over peak, each active feature reading its own row).
_CACHED, _LARGE, _GPU = 0.17, 0.08, 0.003
_CACHE = 4 << 20  # float32 numbers
Active = Tensor | Entries


def dtype_of_products(tensor: Tensor) -> torch.dtype:
    """In which type matrices are multiplied here: that of autocast, where it is on."""
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensor.dtype


class _Linear(torch.autograd.Function):
    """x W^T + b, known already."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, pre: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.dtype = dtype_of_products(x)
        return pre.view_as(pre)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        grad, (x, weight) = grads[0].to(ctx.dtype), ctx.saved_tensors
        to_x = (grad @ weight.to(ctx.dtype)).to(x.dtype) if ctx.needs_input_grad[0] else None
        return to_x, (grad.T @ x.to(ctx.dtype)).to(weight.dtype), grads[0].sum(0), None


class _LinearAtEntries(torch.autograd.Function):
    """x W^T + b at some entries, known already. The gradient of W touches the rows of active features alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, entries: Entries) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.entries = entries
        return entries.values.view_as(entries.values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        (grad,) = grads
        x, weight = ctx.saved_tensors
        entries = ctx.entries.with_values(grad)
        to_x = sum_by_token(entries, weight) if ctx.needs_input_grad[0] else None
        to_bias = weight.new_zeros(len(weight)).index_add_(0, entries.features, grad)
        return to_x, sum_by_feature(entries, x), to_bias, None


@torch.no_grad()
def pre_activations(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`[N, F]`, without gradient."""
    return torch.addmm(bias, x, weight.T).to(weight.dtype)


def activate(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    pre: Tensor,
    mask: Tensor | None,
    threshold: Tensor | None,
    bandwidth: float = 1.0,
    limit: float = 0.0,
) -> Active:
    """Active features of one layer, with the gradients of everything that made them.

    Args:
        x: what the encoder reads, `[N, d]`.
        weight, bias: of the encoder, `[F, d]` and `[F]`.
        pre: x W^T + b, from `pre_activations`.
        mask: the active entries, where they do not follow from thresholds.
        threshold: of a JumpReLU, `[F]`.
        bandwidth: of a JumpReLU.
        limit: the share of entries up to which the result is sparse: 0 for always dense, 1 for always sparse.

    Returns:
        `[N, F]`, or its entries.
    """
    if threshold is not None:
        trains = torch.is_grad_enabled() and threshold.requires_grad
        # Where no threshold is trained, features that are not active matter to nobody.
        mask = in_reach(pre, threshold.detach(), bandwidth) if trains else pre > threshold.detach()
    assert mask is not None
    if is_sparse(mask, limit):
        found = Entries.where(mask, pre)
        values: Tensor = _LinearAtEntries.apply(x, weight, bias, found)
        if threshold is not None:
            values = jumprelu(values, threshold[found.features], bandwidth)
        return found.with_values(values)
    dense: Tensor = _Linear.apply(x, weight, bias, pre)
    return torch.where(mask, dense, 0.0) if threshold is None else jumprelu(dense, threshold, bandwidth)


def break_even(table: Tensor) -> float:
    """Up to which share of active entries sums over them are faster than products with this decoder."""
    if table.device.type != "cpu":
        return _GPU
    return _CACHED if table.numel() <= _CACHE else _LARGE


def is_sparse(mask: Tensor, limit: float) -> bool:
    """Whether at most this share of entries is true."""
    return int(mask.count_nonzero()) <= limit * mask.numel() if limit > 0 else False
