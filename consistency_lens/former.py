"""Options and arguments of before: each that is gone says what stands in its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from .errors import BadInput

WHY = "there is no such option any more"


@dataclass(frozen=True)
class Former:
    """An option of before.

    Args:
        instead: what to do in its place.
        off: the value at which it did nothing, which old recipes may still have; None where every value did nothing.
    """

    instead: str = "Leave it out."
    off: str | None = None


class Formerly:
    """Arguments that refuse those of before by name, with what stands in their place."""

    former: ClassVar[Mapping[str, Former]] = {}

    def __new__(cls, *args: Any, **named: Any) -> Self:
        for name in named:
            if name in cls.former:
                raise BadInput(name, named[name], cls.former[name].instead, WHY)
        return super().__new__(cls)
