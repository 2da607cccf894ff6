"""What can be shown of a lens, as plain data. A page draws each part by its `kind`; no family knows how it looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from .controls import Control

Chances = Sequence[tuple[str, float]]  # tokens with their probabilities


@dataclass(frozen=True)
class Part:
    """
    Args:
        title: what stands above it; parts without one are as wide as the page, the others stand side by side.
    """

    kind: ClassVar[str]

    title: str = ""


@dataclass(frozen=True)
class Figures(Part):
    """Numbers that lead.

    Args:
        items: name, value as it is shown, and what it means.
    """

    kind = "figures"

    items: Sequence[tuple[str, str, str]] = ()


@dataclass(frozen=True)
class Spelled(Part):
    """The tokens of a text, each with the probability that it was given."""

    kind = "spelled"

    items: Chances = ()


@dataclass(frozen=True)
class Bars(Part):
    """The likeliest tokens of two sides.

    Args:
        before, after: tokens with their probabilities.
        names: of the sides.
    """

    kind = "bars"

    before: Chances = ()
    after: Chances = ()
    names: tuple[str, str] = ("before", "after")


@dataclass(frozen=True)
class Amounts(Part):
    """Numbers from 0 up that are compared by their length; the first is the lens's own."""

    kind = "amounts"

    items: Sequence[tuple[str, float]] = ()


@dataclass(frozen=True)
class Grid(Part):
    """A table of text.

    Args:
        headers: of the columns.
        rows: their cells; the first names the row.
        numeric: the column from which on cells are numbers.
    """

    kind = "grid"

    headers: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    numeric: int = 1


@dataclass(frozen=True)
class Near:
    """One row of a text from near, and what can be changed about it.

    Args:
        unit: what a row stands for: `Token`, `Slot`.
        position: which one.
        token: the text that it stands for.
        parts: what is known of it.
        controls: what can be changed.
        act: what the button says that changes it.
    """

    unit: str
    position: int
    token: str
    parts: Sequence[Part]
    controls: Sequence[Control] = field(default_factory=tuple)
    act: str = "Change"


def nats(kl: float) -> str:
    """A KL as it is shown."""
    return f"{kl:.3f}" if kl < 9.9995 else f"{kl:.1f}"
