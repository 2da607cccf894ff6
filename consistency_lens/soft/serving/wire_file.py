"""A file of wires: one behind the other, nothing between. Each header says how long its wire is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from ...errors import BadInput
from ...files import write_whole
from ..bytes.wire import Wire, announced_length
from .sending import FOLLOWS

Texts = list[list[Wire]]  # of each text, the wires of its windows


def joined(texts: Iterable[Sequence[Wire]]) -> bytes:
    """The wires of some texts as bytes."""
    return b"".join(wire.to_bytes() for wires in texts for wire in wires)


def split(data: bytes | bytearray | memoryview) -> Texts:
    """The same back; raise `BadInput` on anything else. It takes a few times the memory of the bytes."""
    view, texts = memoryview(data).cast("B"), Texts()
    if not len(view):
        raise BadInput("wire", "0 bytes", "Give the bytes of at least one wire.")
    while len(view):
        length = announced_length(view)
        wire = Wire.from_bytes(view[:length])
        if wire.meta.get(FOLLOWS) is not True:
            texts.append([])
        elif not texts:
            fix = "Get the file again: its beginning is missing."
            raise BadInput("wire", f"{len(view)} bytes", fix, why="it goes on with a text that is not there")
        texts[-1].append(wire)
        view = view[length:]
    return texts


def write_wires(path: str | Path, texts: Iterable[Sequence[Wire]]) -> int:
    """Write a file whole or not at all; returns its bytes."""
    path, data = Path(path), joined(texts)
    if not path.parent.is_dir():
        raise BadInput("output", str(path), "Name a file in a folder that is there.")
    write_whole(path, data)
    return len(data)


def read_wires(path: str | Path) -> Texts:
    """What `write_wires` wrote."""
    path = Path(path)
    if not path.is_file():
        raise BadInput("wire", str(path), "Name a file that `run_lens.py compress` wrote.", why="there is none")
    return split(path.read_bytes())
