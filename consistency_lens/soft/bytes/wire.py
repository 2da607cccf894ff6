"""`Wire`: the code of one text as bytes, as few as there are, with everything counted.

    magic 4 · version 1 · bits 1 · group 2 · d_z 2 · bytes of the lens id 1 · bytes of meta 2 · M 4
    lens id · meta (JSON) · scales (float16, M · G) · values, bit-packed · CRC-32 of all before

Numbers are little-endian. The CRC notices damage; it is no signature. What can be read is written back as the same
bytes.

Shapes: M vectors of d_z coordinates, G groups of coordinates per vector.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ...errors import BadInput
from .packing import pack, packed_length, unpack
from .quantising import FLOAT_BITS, dequantise, quantise, require_bits, require_group, top_level

MAGIC, VERSION = b"LWIR", 1
_HEADER = struct.Struct("<4sBBHHBHI")
_CHECKSUM = struct.Struct("<I")
_ASK_AGAIN = "Get the bytes again: they were cut off or changed on the way."
_HALF = np.dtype("<f2")

Meta = Mapping[str, str | int | float | bool | None]


@dataclass(frozen=True)
class Wire:
    """A quantised code. `Wire.of` makes one of a tensor, `Wire.from_bytes` of bytes.

    Args:
        lens: id of the lens that made the code, and whose adapters alone can read it.
        M: how many vectors.
        d_z: coordinates of a vector.
        bits: 16 (float16), 8, 6 or 4 per coordinate.
        group: how many coordinates of a vector share a float16 scale; 0 with 16 bits, which need none.
        payload: scales and bit-packed values.
        meta: a few facts to go along, by name: text, numbers, truth values.
    """

    lens: str
    M: int
    d_z: int
    bits: int
    group: int
    payload: bytes = field(repr=False)
    meta: Meta = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        _require_shape(self.M, self.d_z, self.bits, self.group)
        _lens_bytes(self.lens)
        _meta_bytes(self.meta)
        expected = _payload_length(self.M, self.d_z, self.bits, self.group)
        if len(self.payload) != expected:
            fix = f"{self.M} vectors of {self.d_z} coordinates at {self.bits} bits take {expected} bytes."
            raise BadInput("payload", f"{len(self.payload)} bytes", fix)
        self._require_numbers()

    @classmethod
    def of(cls, code: Tensor, bits: int, group: int = 32, lens: str = "", meta: Meta | None = None) -> Wire:
        """Quantise and pack a code `[M, d_z]`. A group of more coordinates than a vector has is the whole vector."""
        if code.ndim != 2:
            fix = "Give the code of one text, [M, d_z]."
            raise BadInput("code", f"a tensor of shape {tuple(code.shape)}", fix)
        M, d_z = code.shape
        require_bits(bits)
        group = require_group(group, d_z, bits)
        _require_shape(M, d_z, bits, group)
        code = code.detach()
        if bits == FLOAT_BITS:
            halves = code.to(torch.float16)
            _require_finite(halves, code, "float16")
            payload = _half_bytes(halves)
        else:
            levels, scales = quantise(code, bits, group)
            _require_finite(scales, code, f"a float16 scale at {bits} bits")
            unsigned = (levels.cpu().numpy().reshape(-1) + np.int8(top_level(bits))).view(np.uint8)
            payload = _half_bytes(scales) + pack(unsigned, bits)
        return cls(lens, M, d_z, bits, group, payload, dict(meta or {}))

    def codes(self) -> Tensor:
        """The code as float32, `[M, d_z]`."""
        if self.bits == FLOAT_BITS:
            return _halves(self.payload, self.M * self.d_z).float().view(self.M, self.d_z)
        groups = _groups(self.d_z, self.group)
        scales = _halves(self.payload, self.M * groups).view(self.M, groups)
        levels = (self._unsigned() - np.uint8(top_level(self.bits))).view(np.int8)
        return dequantise(torch.from_numpy(levels).view(self.M, self.d_z), scales, self.group)

    def to_bytes(self) -> bytes:
        """Header, payload and checksum."""
        lens, meta = _lens_bytes(self.lens), _meta_bytes(self.meta)
        sizes = (self.bits, self.group, self.d_z, len(lens), len(meta), self.M)
        parts = (_HEADER.pack(MAGIC, VERSION, *sizes), lens, meta, self.payload)
        checksum = 0
        for part in parts:
            checksum = zlib.crc32(part, checksum)
        return b"".join((*parts, _CHECKSUM.pack(checksum)))

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> Wire:
        """Read what `to_bytes` wrote; raise `BadInput` on anything else.

        Lengths are compared with the bytes that are there before anything is made of them, so that hostile bytes cost
        no more memory than a few times their own size.
        """
        view = memoryview(data).cast("B")
        expected = announced_length(view)
        if len(view) != expected:
            raise BadInput("wire", f"{len(view)} bytes", _ASK_AGAIN, why=f"its header announces {expected}")
        _, _, bits, group, d_z, lens_length, meta_length, M = _HEADER.unpack_from(view)
        end = len(view) - _CHECKSUM.size
        (checksum,) = _CHECKSUM.unpack_from(view, end)
        if zlib.crc32(view[:end]) != checksum:
            raise BadInput("wire", f"{len(view)} bytes", _ASK_AGAIN, why="the checksum is wrong")
        meta_at = _HEADER.size + lens_length
        payload_at = meta_at + meta_length
        lens, meta = _read_lens(bytes(view[_HEADER.size : meta_at])), _read_meta(bytes(view[meta_at:payload_at]))
        return cls(lens, M, d_z, bits, group, bytes(view[payload_at:end]), meta)

    def require_lens(self, lens: str) -> None:
        """Raise where another lens made this code."""
        if self.lens != lens:
            fix = f"Read it with {self.lens!r}, or compress the text again with {lens!r}."
            raise BadInput("wire", self.lens, fix, why="another lens made this code")

    def _unsigned(self) -> np.ndarray:
        scales = 2 * self.M * _groups(self.d_z, self.group)
        return unpack(memoryview(self.payload)[scales:], self.M * self.d_z, self.bits)

    def _require_numbers(self) -> None:
        """That no value is one that `of` never writes."""
        halves = self.M * (self.d_z if self.bits == FLOAT_BITS else _groups(self.d_z, self.group))
        numbers = _halves(self.payload, halves)
        name = "values" if self.bits == FLOAT_BITS else "scales"
        if not torch.isfinite(numbers).all():
            raise BadInput("payload", f"{name} that are not finite", _ASK_AGAIN)
        if self.bits == FLOAT_BITS:
            return
        if torch.signbit(numbers).any():
            raise BadInput("payload", "scales below zero", _ASK_AGAIN)
        spare = -self.M * self.d_z * self.bits % 8
        if self._unsigned().max() > 2 * top_level(self.bits) or (spare and self.payload[-1] >> (8 - spare)):
            raise BadInput("payload", f"integers of more than {self.bits} bits", _ASK_AGAIN)


def announced_length(data: bytes | bytearray | memoryview) -> int:
    """How many bytes the wire has that begins here, by its header; raise `BadInput` where none begins."""
    view = memoryview(data).cast("B")
    start = bytes(view[: len(MAGIC)])
    if start != MAGIC:
        fix = "Give bytes that Wire.to_bytes wrote."
        raise BadInput("wire", start, fix, why="the first bytes are not those of a wire")
    if len(view) < _HEADER.size:
        raise BadInput("wire", f"{len(view)} bytes", _ASK_AGAIN, why="the header is not complete")
    _, version, bits, group, d_z, lens_length, meta_length, M = _HEADER.unpack_from(view)
    if version != VERSION:
        fix = f"Read it with the version of consistency-lens that wrote it: this one reads version {VERSION}."
        raise BadInput("wire", f"version {version}", fix)
    _require_shape(M, d_z, bits, group)
    return _total_length(M, d_z, bits, group, lens_length, meta_length)


def bytes_of(M: int, d_z: int, bits: int, group: int = 32, lens: str = "", meta: Meta | None = None) -> int:
    """The length of `Wire.of(code, bits, group, lens, meta).to_bytes()`, without a code."""
    require_bits(bits)
    group = require_group(group, d_z, bits)
    _require_shape(M, d_z, bits, group)
    return _total_length(M, d_z, bits, group, len(_lens_bytes(lens)), len(_meta_bytes(meta or {})))


def _groups(d_z: int, group: int) -> int:
    return -(-d_z // group)


def _payload_length(M: int, d_z: int, bits: int, group: int) -> int:
    scales = 0 if bits == FLOAT_BITS else 2 * M * _groups(d_z, group)
    return scales + packed_length(M * d_z, bits)


def _total_length(M: int, d_z: int, bits: int, group: int, lens_length: int, meta_length: int) -> int:
    return _HEADER.size + lens_length + meta_length + _payload_length(M, d_z, bits, group) + _CHECKSUM.size


def _require_shape(M: int, d_z: int, bits: int, group: int) -> None:
    """That the header has room for the numbers, and that they fit together."""
    require_bits(bits)
    for name, value, most in (("M", M, 2**32 - 1), ("d_z", d_z, 2**16 - 1)):
        if not 1 <= value <= most:
            raise BadInput(name, value, f"A wire has between 1 and {most}.")
    if bits == FLOAT_BITS and group != 0:
        raise BadInput("group", group, "Take 0 with 16 bits, which have no scales.")
    if bits != FLOAT_BITS and not 1 <= group <= d_z:
        raise BadInput("group", group, f"Take between 1 and {d_z}, the coordinates of a vector.")


def _require_finite(written: Tensor, code: Tensor, kind: str) -> None:
    if not torch.isfinite(written).all():
        largest = code.abs().max().item()
        why = f"{kind} cannot hold it" if np.isfinite(largest) else "it is not finite"
        raise BadInput("code", f"largest value {largest:g}", "Give finite values of a moderate size.", why=why)


def _half_bytes(halves: Tensor) -> bytes:
    return halves.cpu().numpy().astype(_HALF, copy=False).tobytes()


def _halves(payload: bytes, count: int) -> Tensor:
    return torch.from_numpy(np.frombuffer(payload, _HALF, count).astype(np.float16))


def _lens_bytes(lens: str) -> bytes:
    try:
        written = lens.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadInput("lens", lens, "Give an id that can be written as UTF-8.") from error
    if len(written) > 255:
        raise BadInput("lens", lens, "Give an id of at most 255 bytes.", why=f"it has {len(written)}")
    return written


def _read_lens(written: bytes) -> str:
    try:
        return written.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInput("lens", written, _ASK_AGAIN, why="it is not UTF-8") from error


def _meta_bytes(meta: Meta) -> bytes:
    """JSON in one form: keys in order, no blanks. No facts take no bytes."""
    for name, value in meta.items():
        if not isinstance(name, str) or not isinstance(value, str | int | float | None):
            raise BadInput("meta", {name: value}, "Give text, numbers and truth values, by name.")
    try:
        text = json.dumps(dict(meta), ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
        written = text.encode("utf-8") if meta else b""
    except ValueError as error:
        raise BadInput("meta", meta, "Give text that is UTF-8, and finite numbers.", why=str(error)) from error
    if len(written) > 2**16 - 1:
        raise BadInput("meta", f"{len(written)} bytes of JSON", f"Give at most {2**16 - 1}.")
    return written


def _read_meta(written: bytes) -> dict[str, str | int | float | bool | None]:
    try:
        meta = json.loads(written) if written else {}
    except (ValueError, RecursionError) as error:  # too deep for the parser
        raise BadInput("meta", f"{len(written)} bytes", _ASK_AGAIN, why="it is not JSON") from error
    if not isinstance(meta, dict) or _meta_bytes(meta) != written:
        fix = "Give bytes that Wire.to_bytes wrote."
        raise BadInput("meta", f"{len(written)} bytes", fix, why="it is not in the form that a wire has")
    return meta
