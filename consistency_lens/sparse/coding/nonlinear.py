"""Which features are active: ReLU, JumpReLU with its straight-through gradient, TopK and BatchTopK.

Shapes: L layers, N tokens, F features per layer, E entries (active features of all tokens).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .sharing import ALONE, Shards

SAMPLE = 1 << 17  # numbers that tell how large the largest are
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
    count = k * (pre.numel() // pre.shape[-1])
    if shards.count > 1:
        return topk_mask(pre.reshape(1, -1), count, shards).view_as(pre)
    flat = pre.reshape(-1)
    where = largest(flat, min(count, len(flat)), pre.shape[-1])
    mask = torch.zeros_like(flat, dtype=torch.bool)
    mask[where] = flat[where] > 0
    return mask.view_as(pre)


def largest(flat: Tensor, count: int, width: int) -> Tensor:
    """Where the `count` largest of `[E]` numbers are. A sample tells a bound that a few more than these exceed, and
    only what exceeds it is sorted: on a CPU that takes a ninth of the time of `topk` over all of them.

    Args:
        flat: the numbers.
        count: how many.
        width: of the rows that they come from. The sample's stride shares no factor with it, so that all columns are
            in it.
    """
    stride = max(1, len(flat) // SAMPLE)
    while math.gcd(stride, width) > 1:
        stride += 1
    sample = flat[::stride]
    rank = int(count / stride * 1.15) + 64
    if flat.device.type == "cpu" and stride > 1 and rank < len(sample):
        bound = sample.kthvalue(len(sample) - rank).values
        above = (flat >= bound).nonzero().squeeze(1)
        if len(above) >= count:
            return above[flat[above].topk(count, sorted=False).indices]
    return flat.topk(count, sorted=False).indices
