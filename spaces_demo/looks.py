"""A whole text, row by row, as far as it has come: what the family of a lens shows of it is asked for in pieces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from consistency_lens import BadInput, LensModel, LensView, view_of

CHUNK = 32  # rows between two signs of life

Row = dict[str, Any]


def scan(lens: LensModel, text: str) -> Iterator[tuple[list[Row], int]]:
    """The rows so far and how many there will be, again and again until all are there."""
    view: LensView = view_of(lens)
    there = view.positions(text)
    if not there:
        raise BadInput("text", text, "Give one more word: the first token has nothing before it to be read from.")
    chunk = len(there) if view.whole else CHUNK
    rows: list[Row] = []
    for first in range(0, len(there), chunk):
        rows = rows + view.rows(text, there[first : first + chunk])
        yield rows, len(there)
