"""Which features are active: ReLU, JumpReLU with its straight-through gradient, TopK and BatchTopK.

Shapes: L layers, N tokens, F features per layer, E entries (active features of all tokens).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .sharing import ALONE, Shards

NONLINEARITIES = ("relu", "jumprelu", "topk", "batchtopk")


class _JumpReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return torch.where(pre > threshold, pre, 0.0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (grad,) = grads
        pre, threshold = ctx.saved_tensors
        to_pre = torch.where(pre > threshold, grad, 0.0) if ctx.needs_input_grad[0] else None
        to_threshold = None
        if ctx.needs_input_grad[1]:
            near = (pre - threshold).abs() < ctx.bandwidth / 2
            to_threshold = torch.where(near, grad, 0.0)
            to_threshold = to_threshold.sum_to_size(threshold.shape) * (-threshold / ctx.bandwidth)
        return to_pre, to_threshold, None


def jumprelu(pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    """f = x where x > θ, else 0.

    The gradient to x is exact: 1 where x > θ, and nothing for 0 < x < θ. The gradient to θ is estimated with a
    rectangle of width ε around it, -θ/ε · 1[|x - θ| < ε/2] (https://arxiv.org/abs/2407.14435, eq. 11).

    Args:
        pre: x, `[N, F]` or `[E]`.
        threshold: θ > 0, `[F]`, or one for each entry.
        bandwidth: ε.
    """
    result: Tensor = _JumpReLU.apply(pre, threshold, bandwidth)
    return result


def in_reach(pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    """Where a feature is active, or near enough to its threshold to move it: all entries with any gradient."""
    return pre > threshold - bandwidth / 2


def topk_mask(pre: Tensor, k: int, shards: Shards = ALONE) -> Tensor:
    """The k largest of each row of `[N, F]`, where they are above 0; F are those of all processes, where they are
    spread."""
    values, where = pre.topk(min(k, pre.shape[-1]), dim=-1, sorted=False)
    if shards.count > 1:
        return (pre >= shards.kth(values, k)) & (pre > 0)
    return torch.zeros_like(pre, dtype=torch.bool).scatter_(-1, where, values > 0)


def batchtopk_mask(pre: Tensor, k: int, shards: Shards = ALONE) -> Tensor:
    """The largest of all entries of `[N, F]`, or of layers that compete `[L, N, F]`, where they are above 0: k for
    each of the rows in the mean, however they are spread over the rows."""
    rows = pre.numel() // pre.shape[-1]
    return topk_mask(pre.reshape(1, -1), k * rows, shards).view_as(pre)
