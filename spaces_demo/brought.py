"""What a lens brings along was written by others: where a file is not what it should be, one sentence says so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from consistency_lens import BadInput

# What reading, computing with and printing plain values raises where they are of another kind than they should be.
DAMAGE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


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
