"""One shape for every error a user can cause: the field, the value it had, and what to do about it."""

from __future__ import annotations

from typing import Any


class BadInput(ValueError):
    """Something the user gave cannot work.

    Args:
        field: the name under which the user knows it: a command line field, a column, a folder.
        value: what it was.
        fix: what to change, as a full sentence.
        why: what is wrong with the value, when the value alone does not show it.
    """

    def __init__(self, field: str, value: Any, fix: str, why: str = "") -> None:
        self.field, self.value, self.fix, self.why = field, value, fix, why
        shown = value if isinstance(value, str) and "\n" in value else repr(value)
        super().__init__(f"{field}={shown}{': ' + why.rstrip('.') if why else ''}. {fix}")

    def __reduce__(self) -> tuple[type[BadInput], tuple[str, Any, str, str]]:
        return type(self), (self.field, self.value, self.fix, self.why)
