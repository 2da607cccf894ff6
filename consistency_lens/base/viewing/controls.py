"""What people can change on a page, as plain data, and what comes back from them: nothing of it is taken on trust."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ...errors import BadInput


@dataclass(frozen=True)
class Control(ABC):
    """
    Args:
        name: by which its value comes back.
        label: what people read.
        hint: a line below it.
        group: the title that it stands under, with its neighbours of the same group.
    """

    kind: ClassVar[str]

    name: str
    label: str
    hint: str = ""
    group: str = ""

    @property
    @abstractmethod
    def start(self) -> Any:
        """Its value before anybody has changed it."""

    @abstractmethod
    def settled(self, given: Any) -> Any:
        """A value as it may be used; raise where it is none."""


@dataclass(frozen=True)
class Slider(Control):
    """A number.

    Args:
        value: at first.
        low, high, step: what it may be.
        factor: whether something is multiplied by it.
    """

    kind = "slider"

    value: float = 0.0
    low: float = 0.0
    high: float = 1.0
    step: float = 0.1
    factor: bool = False

    @property
    def start(self) -> float:
        return self.value

    def settled(self, given: Any) -> float:
        number = isinstance(given, int | float) and not isinstance(given, bool)
        if not number or not self.low <= given <= self.high:  # nor is NaN
            raise BadInput(self.label, given, f"Use a number from {self.low:g} to {self.high:g}.")
        return float(given)


@dataclass(frozen=True)
class Choice(Control):
    """One of some options.

    Args:
        value: at first.
        options: each as its value, and as people read it.
    """

    kind = "choice"

    value: str = ""
    options: Sequence[tuple[str, str]] = ()

    @property
    def start(self) -> str:
        return self.value

    def settled(self, given: Any) -> str:
        known = [value for value, _ in self.options]
        if not isinstance(given, str) or given not in known:
            raise BadInput(self.label, given, f"Use one of {', '.join(known)}.")
        return given


@dataclass(frozen=True)
class Field(Control):
    """A line of text.

    Args:
        value: at first.
        longest: characters that it may have.
    """

    kind = "field"

    value: str = ""
    longest: int = 500

    @property
    def start(self) -> str:
        return self.value

    def settled(self, given: Any) -> str:
        if not isinstance(given, str) or len(given) > self.longest:
            raise BadInput(self.label, str(given)[:40], f"Write at most {self.longest} characters.")
        if any("\ud800" <= letter <= "\udfff" for letter in given):
            raise BadInput(self.label, ascii(given)[:40], "Write text.", why="it holds half of a character")
        return given


@dataclass(frozen=True)
class Switches(Control):
    """Several things, each of which is on at first and can be switched off. Its value is the list of what is off.

    Args:
        options: each as its value, and as people read it.
    """

    kind = "switches"

    options: Sequence[tuple[str, str]] = ()

    @property
    def start(self) -> list[str]:
        return []

    def settled(self, given: Any) -> list[str]:
        known = [value for value, _ in self.options]
        if not isinstance(given, list) or not all(isinstance(each, str) and each in known for each in given):
            raise BadInput(self.label, str(given)[:40], f"Name some of {', '.join(known[:8])}.")
        return [each for each in known if each in given]


def settled(controls: Sequence[Control], given: Any) -> dict[str, Any]:
    """The value of every control by its name; what is not given is as it was at first.

    Args:
        controls: what can be changed.
        given: values by name, from outside.
    """
    if not isinstance(given, Mapping):
        raise BadInput("values", str(given)[:40], "Give an object with a value for each name.")
    by_name = {control.name: control for control in controls}
    if unknown := [name for name in given if name not in by_name]:
        fix = f"Change some of {', '.join(list(by_name)[:8])}." if by_name else "There is nothing to change here."
        raise BadInput("control", str(unknown[0])[:40], fix)
    return {
        name: control.settled(given[name]) if name in given else control.start for name, control in by_name.items()
    }
