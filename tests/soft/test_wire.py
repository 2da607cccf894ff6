"""A code as bytes: exact there and back, every byte counted, and nothing but `BadInput` for bytes that are no wire."""

from __future__ import annotations

import dataclasses
import math
import struct
import tracemalloc
import zlib
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from consistency_lens.errors import BadInput
from consistency_lens.soft.bytes.quantising import BITS
from consistency_lens.soft.bytes.wire import VERSION, Wire, bytes_of

HEADER = "<4sBBHHBHI"


def code_of(M: int = 3, d_z: int = 10, seed: int = 0) -> torch.Tensor:
    return torch.randn(M, d_z, generator=torch.Generator().manual_seed(seed))


def sealed(body: bytes) -> bytes:
    """With a checksum that is right."""
    return body + struct.pack("<I", zlib.crc32(body))


def by_hand(
    payload: bytes, bits: int = 8, group: int = 2, d_z: int = 2, M: int = 1, lens: bytes = b"", meta: bytes = b""
) -> bytes:
    """A wire written without any check."""
    header = struct.pack(HEADER, b"LWIR", VERSION, bits, group, d_z, len(lens), len(meta), M)
    return sealed(header + lens + meta + payload)


FACTS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False))
WORDS = st.text(max_size=8)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(1, 40),
    st.sampled_from(BITS),
    st.integers(1, 50),
    st.text(max_size=40),
    st.dictionaries(WORDS, FACTS | WORDS, max_size=3),
)
def test_it_is_the_same_there_and_back(
    M: int, d_z: int, bits: int, group: int, lens: str, meta: dict[str, Any]
) -> None:
    wire = Wire.of(code_of(M, d_z), bits, group, lens, meta)
    data = wire.to_bytes()
    assert len(data) == bytes_of(M, d_z, bits, group, lens, meta)
    back = Wire.from_bytes(data)
    assert back == wire and back.to_bytes() == data
    assert (back.lens, back.M, back.d_z, back.bits, back.meta) == (lens, M, d_z, bits, meta)
    assert torch.equal(back.codes(), wire.codes())
    assert Wire.of(back.codes(), bits, group, lens, meta).codes().shape == (M, d_z)


@pytest.mark.parametrize(("bits", "payload"), [(16, 16_384), (8, 8_704), (6, 6_656), (4, 4_608)])
def test_bytes_are_those_of_the_arithmetic(bits: int, payload: int) -> None:
    """32 vectors of 256 coordinates, a scale for every 32: what others publish for codes that they never packed."""
    wire = Wire.of(code_of(32, 256), bits, 32, "a lens")
    assert len(wire.payload) == payload
    assert len(wire.to_bytes()) == payload + 17 + len("a lens") + 4 == bytes_of(32, 256, bits, 32, "a lens")


def test_codes_are_close() -> None:
    code = code_of(8, 64)
    for bits, largest in ((16, 0.001), (8, 0.02), (6, 0.07), (4, 0.3)):
        wire = Wire.of(code, bits, 16)
        assert 0 < (wire.codes() - code).abs().max() < largest
    assert Wire.of(code, 4, 1000) == Wire.of(code, 4, 64), "a group is a vector at most"
    assert torch.equal(Wire.of(code[:3], 4, 16).codes(), Wire.of(code, 4, 16).codes()[:3])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_any_floating_type_is_taken(dtype: torch.dtype) -> None:
    code = code_of().to(dtype).requires_grad_()
    assert torch.equal(Wire.of(code, 8, 4).codes(), Wire.of(code.detach().float(), 8, 4).codes())


def test_every_flipped_bit_is_refused() -> None:
    data = Wire.of(code_of(2, 6), 6, 4, "lens", {"tokens": 7}).to_bytes()
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << (bit % 8)
        with pytest.raises(BadInput):
            Wire.from_bytes(damaged)


@pytest.mark.parametrize("bits", BITS)
def test_every_length_but_the_right_one_is_refused(bits: int) -> None:
    data = Wire.of(code_of(2, 6), bits, 4, "lens").to_bytes()
    for length in range(len(data)):
        with pytest.raises(BadInput):
            Wire.from_bytes(data[:length])
    with pytest.raises(BadInput, match="its header announces"):
        Wire.from_bytes(data + b"\0")


def measured(data: bytes) -> int:
    """How many bytes reading takes at its peak, whether or not it succeeds. What torch takes is not among them."""
    tracemalloc.start()
    try:
        Wire.from_bytes(data)
    except BadInput:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return peak


SIZES = st.one_of(st.integers(0, 40), st.integers(0, 2**16 - 1))


@settings(max_examples=60, deadline=None)
@given(
    st.binary(max_size=200), st.booleans(), st.sampled_from([*BITS, 0, 255]), SIZES, SIZES, st.integers(0, 2**32 - 1)
)
def test_random_bytes_are_refused_and_take_no_memory(
    noise: bytes, framed: bool, bits: int, group: int, d_z: int, M: int
) -> None:
    """Behind the right magic and with a right checksum, so that all of the reader is reached."""
    header = struct.pack(HEADER, b"LWIR", VERSION, bits, group, d_z, len(noise) % 7, 0, M) if framed else b""
    assert measured(sealed(header + noise)) < 30_000 + 40 * len(noise)  # an error and its message take some


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 3), st.integers(1, 6), st.sampled_from(BITS), st.binary(max_size=12))
def test_a_random_payload_is_a_code_or_refused(data: st.DataObject, M: int, d_z: int, bits: int, meta: bytes) -> None:
    """Of the right length: what is read has finite values, and is written again as it came."""
    group = 0 if bits == 16 else data.draw(st.integers(1, d_z))
    length = len(Wire.of(torch.zeros(M, d_z), bits, group or 1).payload)
    payload = data.draw(st.binary(min_size=length, max_size=length))
    written = by_hand(payload, bits, group, d_z, M, meta=meta)
    try:
        wire = Wire.from_bytes(written)
    except BadInput:
        return
    assert wire.to_bytes() == written and wire.codes().isfinite().all()


def test_lengths_that_are_not_there_take_no_memory() -> None:
    """The largest code that a header can announce has 563 TB."""
    huge = by_hand(b"\0" * 10, d_z=2**16 - 1, M=2**32 - 1)
    with pytest.raises(BadInput, match="its header announces 562945658322966"):
        Wire.from_bytes(huge)
    assert measured(huge) < 30_000
    wide = by_hand(b"\0" * 3000, group=2**16 - 1, d_z=1, M=1000)  # padded to whole groups it would have 262 MB
    with pytest.raises(BadInput, match="group=65535"):
        Wire.from_bytes(wide)


def test_reading_takes_a_few_times_the_bytes() -> None:
    data = Wire.of(code_of(64, 1024), 8, 1, "lens").to_bytes()  # a scale per coordinate: 3 bytes each
    assert measured(data) < 3 * len(data)


HALF = struct.pack("<e", 1.0)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "wire=b''.*first bytes"),
        (b"PK\x03\x04" + b"\0" * 40, "first bytes are not those of a wire"),
        (b"LWIR\x01", "header is not complete"),
        (sealed(struct.pack(HEADER, b"LWIR", 9, 8, 2, 2, 0, 0, 1) + HALF + b"\0\0"), "version 9.*reads version 1"),
        (by_hand(HALF + b"\0\0", bits=7), r"bits=7.*16 \(float16\), 8, 6 or 4"),
        (by_hand(HALF + b"\0\0", group=3), "group=3.*between 1 and 2"),
        (by_hand(HALF + b"\0\0", group=0), "group=0.*between 1 and 2"),
        (by_hand(b"\0" * 4, bits=16), "group=2.*Take 0"),
        (by_hand(b"", M=0), "M=0.*between 1 and"),
        (by_hand(b"", d_z=0), "d_z=0.*between 1 and"),
        (by_hand(HALF + b"\0\0")[:-1] + b"?", "checksum is wrong"),
        (by_hand(struct.pack("<e", math.inf) + b"\0\0"), "scales that are not finite"),
        (by_hand(struct.pack("<e", math.nan) + b"\0\0"), "scales that are not finite"),
        (by_hand(struct.pack("<e", -1.0) + b"\0\0"), "scales below zero"),
        (by_hand(struct.pack("<2e", 1.0, math.nan), bits=16, group=0), "values that are not finite"),
        (by_hand(HALF + b"\x00\xff"), "integers of more than 8 bits"),
        (by_hand(HALF + b"\xf0", bits=4), "integers of more than 4 bits"),
        (by_hand(HALF + b"\x00\x10", bits=6), "integers of more than 6 bits"),  # in bits that are left over
        (by_hand(HALF + b"\0\0", lens=b"\xff"), "lens=.*not UTF-8"),
        (by_hand(HALF + b"\0\0", meta=b"{]"), "meta=.*not JSON"),
        (by_hand(HALF + b"\0\0", meta=b"[" * 60_000), "meta=.*not JSON"),
        (by_hand(HALF + b"\0\0", meta=b"[1]"), "meta=.*not in the form"),
        (by_hand(HALF + b"\0\0", meta=b"{}"), "meta=.*not in the form"),
        (by_hand(HALF + b"\0\0", meta=b'{"b":1,"a":1}'), "meta=.*not in the form"),
        (by_hand(HALF + b"\0\0", meta=b'{"a":NaN}'), "meta=.*finite"),
        (by_hand(HALF + b"\0\0", meta=b'{"a":[]}'), "meta=.*by name"),
        (by_hand(HALF + b"\0\0", meta=b'{"a":"\\ud800"}'), "meta=.*UTF-8"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(data: bytes, says: str) -> None:
    with pytest.raises(BadInput, match=f"(?s){says}"):
        Wire.from_bytes(data)


def test_bytes_written_by_hand_are_read() -> None:
    """The refusals above differ from this in one thing each, and it fixes the format of version 1."""
    wire = Wire.from_bytes(by_hand(HALF + b"\x00\xfe", lens="Länge".encode(), meta=b'{"a":1}'))
    assert wire.codes().tolist() == [[-127.0, 127.0]]
    assert (wire.lens, wire.meta) == ("Länge", {"a": 1})
    assert Wire.from_bytes(by_hand(HALF + b"\xe7", bits=4)).codes().tolist() == [[0.0, 7.0]]
    assert Wire.from_bytes(memoryview(by_hand(HALF + HALF, bits=16, group=0))).codes().tolist() == [[1.0, 1.0]]


def test_the_code_of_another_lens_is_refused() -> None:
    wire = Wire.of(code_of(), 8, 4, "mine")
    wire.require_lens("mine")
    with pytest.raises(BadInput, match=r"wire='mine': another lens.*compress the text again with 'yours'"):
        wire.require_lens("yours")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"code": torch.ones(3)}, r"code='a tensor of shape \(3,\)'"),
        ({"code": torch.ones(0, 4)}, "M=0"),
        ({"code": torch.ones(4, 0)}, "d_z=0"),
        ({"code": torch.ones(1, 2**16)}, "d_z=65536"),
        ({"code": torch.full((2, 4), math.nan)}, "largest value nan.*not finite"),
        ({"code": torch.full((2, 4), math.inf), "bits": 16}, "largest value inf.*not finite"),
        ({"code": torch.full((2, 4), 7e4), "bits": 16}, r"largest value 70000.*float16 cannot hold"),
        ({"code": torch.full((2, 4), 1e6), "bits": 4}, r"a float16 scale at 4 bits cannot hold"),
        ({"bits": 5}, "bits=5"),
        ({"group": 0}, "group=0"),
        ({"lens": "x" * 256}, "lens=.*it has 256"),
        ({"lens": "\ud800"}, "lens=.*UTF-8"),
        ({"meta": {"a": [1]}}, "meta=.*by name"),
        ({"meta": {1: "a"}}, "meta=.*by name"),
        ({"meta": {"a": math.inf}}, "meta=.*finite"),
        ({"meta": {"a": "x" * 70_000}}, "meta='700.* bytes.*at most 65535"),
    ],
)  # fmt: skip
def test_what_cannot_be_written_is_named(change: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=f"(?s){says}"):
        Wire.of(**{"code": code_of(), "bits": 8, "group": 4, "lens": "lens"} | change)


def test_a_payload_of_another_length_is_refused() -> None:
    wire = Wire.of(code_of(), 8, 4)
    with pytest.raises(BadInput, match=r"payload='3 bytes'.*take 48 bytes"):
        dataclasses.replace(wire, payload=b"abc")
    with pytest.raises(dataclasses.FrozenInstanceError):
        wire.bits = 4  # type: ignore[misc]
    assert len({wire, Wire.of(code_of(), 8, 4)}) == 1
