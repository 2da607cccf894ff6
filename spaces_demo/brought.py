"""What a lens brings along was written by others: where a file is not what it should be, one sentence says so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from consistency_lens import BadInput

# What reading, computing with and printing plain values raises where they are of another kind than they should be.
DAMAGE = (ArithmeticError, AttributeError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError)


@contextmanager
def brought_by(lens: Path, what: str, fix: str) -> Iterator[None]:
    """Around all that is made of a file of a lens."""
    try:
        yield
    except BadInput:
        raise
    except DAMAGE as error:
        why = f"what the lens brings along is damaged ({type(error).__name__})"
        raise BadInput(what, lens.name, fix, why) from error


def lies_in(path: Path, folder: Path) -> bool:
    """Whether there is such a file, and it is no link to what lies outside of the folder: that may be anything on this
    machine."""
    homes = [folder.resolve()]
    if homes[0].parent.name == "snapshots":  # the Hub's cache keeps the files of a snapshot beside it
        homes.append(homes[0].parent.with_name("blobs"))
    return path.is_file() and any(path.resolve().is_relative_to(home) for home in homes)
