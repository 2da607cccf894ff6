"""Unsigned integers of 8, 6 or 4 bits, packed without a gap.

The first value takes the lowest bits of the first byte, and each next one the bits above: two values of 4 bits in one
byte, four values of 6 bits in three. Bits that the last byte has left over are zero.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Unsigned = NDArray[np.uint8]


def packed_length(count: int, bits: int) -> int:
    """How many bytes `count` values take."""
    return (count * bits + 7) // 8


def pack(values: Unsigned, bits: int) -> bytes:
    """The bytes of a flat array whose values all fit into `bits`."""
    if bits == 8:
        return values.tobytes()
    per_group = 2 if bits == 4 else 4
    whole = np.zeros(-(-values.size // per_group) * per_group, np.uint8)
    whole[: values.size] = values
    columns = [whole[i::per_group] for i in range(per_group)]
    if bits == 4:
        low, high = columns
        packed = low | high << 4
    else:
        a, b, c, d = columns
        packed = np.empty((len(a), 3), np.uint8)
        # A shift of uint8 drops the bits that belong to the next byte.
        packed[:, 0] = a | b << 6
        packed[:, 1] = b >> 2 | c << 4
        packed[:, 2] = c >> 4 | d << 2
    return packed.tobytes()[: packed_length(values.size, bits)]


def unpack(data: bytes | memoryview, count: int, bits: int) -> Unsigned:
    """The first `count` values of `data`, which holds at least `packed_length(count, bits)` bytes."""
    packed = np.frombuffer(data, np.uint8, packed_length(count, bits))
    if bits == 8:
        return packed.copy()
    if bits == 4:
        values = np.empty((packed.size, 2), np.uint8)
        values[:, 0] = packed & 15
        values[:, 1] = packed >> 4
    else:
        whole = np.zeros((-(-packed.size // 3), 3), np.uint8)
        whole.reshape(-1)[: packed.size] = packed
        first, second, third = whole.T
        values = np.empty((len(whole), 4), np.uint8)
        values[:, 0] = first & 63
        values[:, 1] = first >> 6 | (second & 15) << 2
        values[:, 2] = second >> 4 | (third & 3) << 4
        values[:, 3] = third >> 2
    return values.reshape(-1)[:count]
