"""What classes of arguments are made of: options with a help text, and those of before, which are refused by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from .errors import BadInput

WHY = "there is no such option any more"


def option(default: Any, help: str, choices: Iterable[Any] | None = None) -> Any:
    """A field of a dataclass of arguments.

    Args:
        default: its value where none is given; a list is copied.
        help: a sentence that begins with the noun it sets and names unit and default.
        choices: the values that are taken.
    """
    metadata = {"help": help} | ({} if choices is None else {"choices": list(choices)})
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


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
