"""What a text takes without a lens."""

from __future__ import annotations

import zlib

import pyarrow as pa
import pytest

from consistency_lens.errors import BadInput
from consistency_lens.soft.bytes.text_bytes import text_bytes

SENTENCE = "Die Straße führt über den Fluss. "


def test_bytes_are_those_that_unpack_to_the_text() -> None:
    text = SENTENCE * 20
    found = text_bytes(text)
    plain = text.encode()
    assert found["utf8"] == len(plain) > len(text)
    assert found["zlib"] == len(zlib.compress(plain, 9)) < found["utf8"] / 8
    assert found["zstd"] < found["utf8"] / 8
    packed = pa.Codec("zstd", compression_level=19).compress(plain, asbytes=True)
    assert len(packed) == found["zstd"]
    assert pa.Codec("zstd").decompress(packed, len(plain), asbytes=True) == plain


def test_a_short_text_grows() -> None:
    found = text_bytes("Yes")
    assert found["utf8"] == 3 < min(found["zlib"], found["zstd"])
    assert text_bytes("")["utf8"] == 0


def test_text_that_has_no_bytes_is_refused() -> None:
    with pytest.raises(BadInput, match=r"text=.*UTF-8"):
        text_bytes("a\ud800")
