"""The atomic write: whoever reads a file finds the old one or the new one, and never half of either."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, part: Path | None = None) -> Iterator[Path]:
    """A temporary file to write to; it takes the real name when the body ends well, and is removed when it does not.

    Args:
        path: the real name. Its folder is made.
        part: the temporary one, for a single writer who finds it again after a kill. Default: one of this process.
    """
    part = part or path.with_name(f".{path.name}.{os.getpid()}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> Path:
    with replacing(path) as part:
        part.write_bytes(content)
    return path
