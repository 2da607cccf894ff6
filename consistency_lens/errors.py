"""One shape for every error a user can cause: the field, the value it had, and what to do about it."""

from __future__ import annotations

import errno
from typing import Any

LONGEST = 1000  # characters of a value in a message
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_TORN = ("inline_container.cc", "iostream error", "PytorchStreamWriter failed")  # what torch says of its archives


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
        shown = value if isinstance(value, str) and "\n" in value else _cut(repr(value))
        super().__init__(f"{field}={shown}{': ' + _cut(why.rstrip('.')) if why else ''}. {fix}")

    def __reduce__(self) -> tuple[type[BadInput], tuple[str, Any, str, str]]:
        return type(self), (self.field, self.value, self.fix, self.why)


def _cut(text: str) -> str:
    """A line of a message; its value may have been given by somebody who wants it to be endless."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text)} characters)"


def is_full_disk(error: Exception) -> bool:
    """Whether something could not be written for want of room. safetensors gives the number in words; of torch's
    archives no more is known than that a write has failed."""
    if isinstance(error, OSError):
        return error.errno in _NO_ROOM
    message = str(error)
    return any(f"(os error {number})" in message for number in _NO_ROOM) or any(sign in message for sign in _TORN)
