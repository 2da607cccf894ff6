"""What a record from outside may hold: kinds of values with their ranges, checked before any of them is used.

A `Kind` checks one value and raises `Unfit`, which says where in the record the value stands and what would fit.
`read_json`, `read_yaml` and `require` turn that into a `BadInput` that names file, field, value and fix.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from .errors import BadInput

LARGEST = 1 << 26  # bytes of a record: more is no description of anything
LARGEST_YAML = 1 << 16  # its parser is slow
DEEPEST, LONGEST, MOST = 24, 1 << 16, 1 << 20  # levels, characters of a text, values in all
WHOLE = 1 << 53  # beyond it a number of JSON is not exact
LEAST_SCALE, LARGEST_SCALE = 1e-9, 1e9  # of what activations or embeddings are divided by
_BITS = 1000  # of any number: one that fits into a float
_SHOWN = 80

Kind = Callable[[Any, str], None]


class Unfit(ValueError):
    """A value that is of another kind than its place in a record asks for."""

    def __init__(self, where: str, value: Any, wanted: str) -> None:
        self.where, self.wanted = where, wanted
        super().__init__(f"{where + '=' if where else ''}{glimpse(value)}, expected {wanted}")


def glimpse(value: Any) -> str:
    """The beginning of a value on one line. What it holds may be endless, and is not written out first."""
    match value:
        case None | bool() | float():
            return repr(value)
        case int():
            return repr(value) if abs(value) < WHOLE else f"a number of {value.bit_length()} bits"
        case str():
            return repr(value[:_SHOWN]) + (f" and {len(value) - _SHOWN} more characters" if value[_SHOWN:] else "")
        case list() | tuple() | dict():
            return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


def whole(least: int = 0, most: int = WHOLE) -> Kind:
    """An integer in a range; a bool is none."""
    wanted = f"a whole number from {least} to {most}" if most < WHOLE else f"a whole number from {least}"

    def check(value: Any, where: str) -> None:
        if type(value) is not int or not least <= value <= most:
            raise Unfit(where, value, wanted)

    return check


def number(least: float = -math.inf, most: float = math.inf, above: float = -math.inf) -> Kind:
    """A finite number, whole or not, in a range."""
    limits = [f"above {above:g}"] if above > -math.inf else [f"from {least:g}"] if least > -math.inf else []
    limits += [f"up to {most:g}"] if most < math.inf else []
    wanted = " ".join(["a finite number", *limits])

    def check(value: Any, where: str) -> None:
        fits = type(value) is float or (type(value) is int and abs(value) < 1 << 63)  # a tensor takes no larger one
        if not (fits and math.isfinite(value) and least <= value <= most and value > above):
            raise Unfit(where, value, wanted)

    return check


def scale() -> Kind:
    """What tensors are divided by: beyond it their quotients have no room in float32, or all are alike."""
    return number(LEAST_SCALE, LARGEST_SCALE)


def text(pattern: str = "", wanted: str = "", longest: int = LONGEST) -> Kind:
    """A text; one that matches a pattern, if one is given."""
    wanted = wanted or f"a text of at most {longest} characters"

    def check(value: Any, where: str) -> None:
        if not isinstance(value, str) or len(value) > longest or (pattern and not re.fullmatch(pattern, value)):
            raise Unfit(where, value, wanted)

    return check


def flag(value: Any, where: str) -> None:
    """True or false."""
    if not isinstance(value, bool):
        raise Unfit(where, value, "true or false")


def one_of(*choices: str) -> Kind:
    """One of a few texts."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, str) or value not in choices:
            raise Unfit(where, value, f"one of {', '.join(choices)}")

    return check


def maybe(kind: Kind) -> Kind:
    """Null, or a value of this kind."""

    def check(value: Any, where: str) -> None:
        if value is not None:
            kind(value, where)

    return check


def many(kind: Kind, most: int = MOST, least: int = 0) -> Kind:
    """A list of values of one kind."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, (list, tuple)) or not least <= len(value) <= most:
            raise Unfit(where, value, f"a list of {least} to {most} entries")
        for i, entry in enumerate(value):
            kind(entry, f"{where}[{i}]")

    return check


def named(kind: Kind, most: int = 1 << 16) -> Kind:
    """A mapping from any text to values of one kind."""

    def check(value: Any, where: str) -> None:
        for name in _names(value, where, most):
            kind(value[name], _under(where, name))

    return check


def record(needed: Mapping[str, Kind], known: Mapping[str, Kind] | None = None, rest: Kind | None = None) -> Kind:
    """A mapping with these fields.

    Args:
        needed: fields that have to be there.
        known: fields that may be there.
        rest: of fields that have another name. Default: any plain value.
    """
    kinds, other = {**needed, **(known or {})}, rest or plain

    def check(value: Any, where: str) -> None:
        names = _names(value, where)
        if missing := [name for name in needed if name not in value]:
            raise Unfit(where, value, f"a record with the field {missing[0]}")
        for name in names:
            kinds.get(name, other)(value[name], _under(where, name))

    return check


def no_other(value: Any, where: str) -> None:
    """No value at all: the `rest` of a record that takes no field of another name."""
    raise Unfit(where, value, "no field of this name")


def plain(value: Any, where: str) -> None:
    """Any value of JSON or YAML that is finite in depth and size."""
    _bounded(value, where, math.nan)


def finite(value: Any, where: str) -> None:
    """The same, and every number in it is finite, too."""
    _bounded(value, where, math.inf)


def _bounded(value: Any, where: str, below: float) -> None:
    """A value of limited depth and size, whose floats are below this size; with NaN they may be any."""
    left, stack = MOST, [(value, where, 0)]
    while stack:
        found, place, depth = stack.pop()
        left -= 1
        if depth > DEEPEST or left < 0:
            raise Unfit(where, value, f"at most {MOST} values, {DEEPEST} levels deep")
        match found:
            case dict():
                stack += [(found[name], _under(place, name), depth + 1) for name in _names(found, place)]
            case list() | tuple():
                stack += [(entry, f"{place}[{i}]", depth + 1) for i, entry in enumerate(found)]
            case int() if found.bit_length() > _BITS:
                raise Unfit(place, found, f"a number of at most {_BITS} bits")
            case float() if not math.isnan(below) and not abs(found) < below:
                raise Unfit(place, found, "a finite number")
            case str() if len(found) > LARGEST:
                raise Unfit(place, found, f"a text of at most {LARGEST} characters")


def _names(value: Any, where: str, most: int = MOST) -> list[str]:
    if not isinstance(value, dict):
        raise Unfit(where, value, "a mapping")
    odd = [name for name in value if not isinstance(name, str)]
    if odd or len(value) > most:
        raise Unfit(where, value, f"a mapping with at most {most} names, each a text")
    return list(value)


def _under(where: str, name: str) -> str:
    shown = name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…"
    shown = shown if shown.isprintable() else repr(shown)  # an error is one line, whatever a record calls its fields
    return f"{where}.{shown}" if where else shown


def require_place(value: str, field: str) -> None:
    """Raise where something is named that no file system can have, before it is asked for it."""
    longest = max(len(part.encode("utf-8", "replace")) for part in re.split(r"[/\\]", value))
    if "\0" in value or longest > 255 or len(value) > 4000:
        why = f"a part of it has {longest} bytes" if longest > 255 else "no file can be called that"
        raise BadInput(field, value[:_SHOWN] + "…", "Use a shorter name.", why)


def require(value: Any, kind: Kind, field: str, place: str, fix: str, file: str = "") -> None:
    """Raise a `BadInput` unless a value is of this kind.

    Args:
        value: that came from outside.
        kind: of it.
        field: the name under which the user knows what was read.
        place: where it was read, as the user gave it.
        fix: what to do about it.
        file: within `place`, if it is one of several.
    """
    try:
        plain(value, "")
        kind(value, "")
    except Unfit as error:
        raise BadInput(field, place, fix, why=f"{file}: {error}" if file else str(error)) from error


def read_json(path: Path, kind: Kind, field: str, place: str, fix: str) -> Any:
    """What a JSON file holds; raise a `BadInput` unless it can be read and is of this kind. The other arguments are
    those of `require`."""
    return _read(json.loads, LARGEST, path, kind, field, place, fix)


def read_yaml(path: Path, kind: Kind, field: str, place: str, fix: str) -> Any:
    """The same of a YAML file, which names no class of anybody's."""
    return _read(yaml.safe_load, LARGEST_YAML, path, kind, field, place, fix)


def _read(parse: Callable[[str], Any], most: int, path: Path, kind: Kind, field: str, place: str, fix: str) -> Any:
    try:
        if path.stat().st_size > most:
            raise Unfit("", path.stat().st_size, f"a file of at most {most} bytes")
        found = parse(path.read_text(encoding="utf-8"))
    except (OSError, RecursionError, ValueError, yaml.YAMLError) as error:
        shown = "its values lie too deep" if isinstance(error, RecursionError) else str(error).splitlines()[0]
        raise BadInput(field, place, fix, why=f"{path.name} is damaged: {shown}") from error
    require(found, kind, field, place, fix, path.name)
    return found
