"""Codes at few bits: float16, or integers of 8, 6 or 4 bits with one float16 scale per group of coordinates.

Shapes: M vectors of d_z coordinates, cut into G groups; `group` coordinates of one vector share a scale, and the last
group of a vector may be shorter. Every vector is quantised by itself, so that a prefix of a code is the code of a
prefix.

A scale is the *smallest* float16 number with which no coordinate of its group is cut off: the error is at most half a
scale, and which number that is depends on no rounding mode, so that a GPU finds the same one as a CPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ...errors import BadInput

FLOAT_BITS = 16  # values are float16, and there are no scales
BITS = (FLOAT_BITS, 8, 6, 4)


def top_level(bits: int) -> int:
    """The largest integer; the smallest is its negative."""
    return 2 ** (bits - 1) - 1


def quantise(code: Tensor, bits: int, group: int) -> tuple[Tensor, Tensor]:
    """Round to integers.

    Args:
        code: `[..., d_z]`.
        bits: 8, 6 or 4.
        group: how many coordinates of a vector share a scale.

    Returns:
        Integers as int8, `[..., d_z]`, and their scales as float16, `[..., G]`. What is not finite, or too large for
        a float16 scale, gets a scale that is not finite.
    """
    top = top_level(bits)
    parts = _grouped(code.float(), group)
    largest = parts.abs().amax(-1)
    scales = (largest / top).to(torch.float16)
    # Both factors have few bits, so the product is exact. One step up in the bits is the next float16 number.
    cut_off = scales.float() * top < largest
    scales = (scales.view(torch.int16) + cut_off.to(torch.int16)).view(torch.float16)
    divisor = torch.where(scales == 0, 1.0, scales.float())[..., None]
    levels = torch.round(parts / divisor).nan_to_num().to(torch.int8)
    return levels.flatten(-2)[..., : code.shape[-1]], scales


def dequantise(levels: Tensor, scales: Tensor, group: int) -> Tensor:
    """The float32 values that `quantise` stands for, `[..., d_z]`."""
    values = _grouped(levels.float(), group) * scales.float()[..., None]
    return values.flatten(-2)[..., : levels.shape[-1]]


def quantise_ste(code: Tensor, bits: int, group: int) -> Tensor:
    """What arrives at the other end of a wire, with the gradient of the identity.

    Equal, bit for bit, to what `Wire.of(...).codes()` returns, in the dtype of `code`; `[..., d_z]` in any batch. A
    value that a `Wire` would refuse becomes one that is not finite. Nothing waits for the device.
    """
    require_bits(bits)
    return _StraightThrough.apply(code, bits, require_group(group, code.shape[-1], bits))


class _StraightThrough(torch.autograd.Function):
    """`code + (rounded - code).detach()` would add a rounding error of its own."""

    @staticmethod
    def forward(ctx: Any, code: Tensor, bits: int, group: int) -> Tensor:
        if bits == FLOAT_BITS:
            return code.to(torch.float16).to(code.dtype)
        return dequantise(*quantise(code, bits, group), group).to(code.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0], None, None


def require_bits(bits: int) -> None:
    if not isinstance(bits, int) or bits not in BITS:  # 8.0 is in it
        raise BadInput("bits", bits, "Take 16 (float16), 8, 6 or 4.")


def require_group(group: int, d_z: int, bits: int) -> int:
    """How many coordinates share a scale in vectors of `d_z` coordinates; 0 for float16, which has no scales."""
    if d_z < 1:
        raise BadInput("d_z", d_z, "Give vectors of at least one coordinate.")
    if bits == FLOAT_BITS:
        return 0
    if not isinstance(group, int) or group < 1:
        raise BadInput("group", group, "Take a whole number from 1 up: so many coordinates share a scale.")
    return min(group, d_z)


def _grouped(values: Tensor, group: int) -> Tensor:
    """`[..., d_z]` as `[..., G, group]`, zeros behind the last coordinate."""
    missing = -values.shape[-1] % group
    return (pad(values, (0, missing)) if missing else values).unflatten(-1, (-1, group))
