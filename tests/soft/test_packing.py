"""Bits without a gap: the vectorised way against a loop over single bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consistency_lens.soft.bytes.packing import pack, packed_length, unpack


def slow_pack(values: list[int], bits: int) -> bytes:
    """The slow twin: one integer of all bits, the first value lowest."""
    whole = 0
    for i, value in enumerate(values):
        whole += value << (bits * i)
    length = 0
    while 8 * length < bits * len(values):
        length += 1
    return bytes((whole >> (8 * i)) & 255 for i in range(length))


def slow_unpack(data: bytes, count: int, bits: int) -> list[int]:
    found = []
    for i in range(count):
        value = 0
        for bit in range(bits):
            at = bits * i + bit
            value += ((data[at // 8] >> (at % 8)) & 1) << bit
        found.append(value)
    return found


@st.composite
def numbers(draw: st.DrawFn) -> tuple[list[int], int]:
    bits = draw(st.sampled_from([8, 6, 4]))
    return draw(st.lists(st.integers(0, 2**bits - 1), min_size=1, max_size=40)), bits


@settings(max_examples=60, deadline=None)
@given(numbers())
def test_it_packs_as_the_slow_way_does_and_back(drawn: tuple[list[int], int]) -> None:
    values, bits = drawn
    data = pack(np.array(values, np.uint8), bits)
    assert data == slow_pack(values, bits)
    assert len(data) == packed_length(len(values), bits)
    assert unpack(data, len(values), bits).tolist() == values == slow_unpack(data, len(values), bits)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([8, 6, 4]), st.binary(min_size=1, max_size=30))
def test_any_bytes_unpack_as_the_slow_way_does(bits: int, data: bytes) -> None:
    count = 8 * len(data) // bits
    if count:
        assert unpack(data, count, bits).tolist() == slow_unpack(data, count, bits)


def test_bits_lie_where_the_format_puts_them() -> None:
    assert pack(np.array([1, 2, 3], np.uint8), 4) == bytes([0x21, 0x03])
    assert pack(np.array([0b111111, 0, 0b111111, 0], np.uint8), 6) == bytes([0b00111111, 0b11110000, 0b00000011])


@pytest.mark.parametrize(("bits", "length"), [(4, 4096), (6, 6144), (8, 8192)])
def test_a_value_takes_its_bits_and_no_more(bits: int, length: int) -> None:
    assert len(pack(np.zeros(32 * 256, np.uint8), bits)) == length == packed_length(32 * 256, bits)
