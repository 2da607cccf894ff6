"""What `report.json` may say, checked before any of it is used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import BadInput
from ..schema import LONGEST, finite, flag, many, maybe, named, no_other, number, read_json, record, text, whole
from .about import LENS

AGAIN = "Make it again with: run_lens.py evaluate."
_NAME = text(longest=200)
_NUMBER = record({"value": number(), "low": number(), "high": number()}, rest=no_other)
_NUMBERS = named(_NUMBER, most=4096)
_EACH = named(_NUMBERS, most=4096)
_LINE = text(longest=LONGEST)
_LINES = many(_LINE, most=4096)
_DATA = record(
    {
        **dict.fromkeys(["rows", "documents"], whole()),
        "split": _NAME,
        "corpus": maybe(_LINE),
        "seconds": number(0),
    },
    {
        **dict.fromkeys(["documents_of_split", "near_duplicates_of_split", "seed"], maybe(whole())),
        "stored_difference": number(0),
    },
    finite,
)
_GROUP = record(
    {"name": _NAME, "heading": _LINE},
    {"on_card": _LINE, **dict.fromkeys(["compared", "changed", "brief"], flag)},
    no_other,
)
_SWEEP = dict.fromkeys(["caption", "title", "axis"], _LINE) | {"codes": named(_NAME, most=4096)}
_FILE = text(r"[A-Za-z_]\w{0,63}", "a name of letters")
_CHART = record(
    {
        "name": _FILE,
        **dict.fromkeys(["caption", "title", "axis", "height"], _LINE),
        "places": _LINES,
        "lines": named(many(number(), most=4096), most=4096),
        "bars": flag,
    },
    rest=no_other,
)
_LISTING = record({"title": _LINE, "columns": many(_LINE, most=16), "rows": many(_LINES, most=4096)}, rest=no_other)
_CURVE = {
    **dict.fromkeys(["caption", "title", "axis"], _LINE),
    **{"name": _FILE, "x": _NAME, "y": named(_NAME, most=64), "series": named(many(_NAME, most=4096), most=64)},
}
_ABOUT = record(
    {"groups": many(_GROUP, most=64)},
    {
        **dict.fromkeys(["primary", "fallback", "zero"], _NAME),
        **dict.fromkeys(["questions", "titles"], named(_LINE, most=4096)),
        **dict.fromkeys(["details", "narrow", "lines", "limits"], _LINES),
        "sweep": maybe(record({"name": _FILE, **_SWEEP}, rest=no_other)),
        "course": maybe(record(dict.fromkeys(["caption", "title", "x", "axis"], _LINE), rest=no_other)),
        "charts": many(_CHART, most=64),
        "listings": many(_LISTING, most=64),
        "curve": maybe(record(_CURVE, {"priced": named(many(_NAME, most=2), most=64)}, no_other)),
        **dict.fromkeys(["good", "alarm"], flag),
    },
    rest=no_other,
)
_PART = record({"rows": whole(), "numbers": _EACH, "differences": _EACH}, rest=no_other)
_BIN = record({"first": whole(), "last": whole(), "rows": whole(), "numbers": _EACH}, rest=finite)
REPORT = record(
    {
        "verdict": _LINE,
        "remarks": _LINES,
        "lens": record(
            {"family": _NAME, "subject": _NAME, "sites": many(_NAME, most=4096)}, {"weights": _NAME}, finite
        ),
        "data": _DATA,
        "horizon": whole(0, 1 << 28),
        "groups": named(many(_NAME, most=4096), most=64),
        "parts": record({"all": _PART}, rest=_PART),
        "retention": _EACH,
        "traits": _NUMBERS,
        "judged": _EACH,
        "by_position": many(_BIN, most=4096),
        "training": many(named(finite)),
        "definitions": named(_LINE),
    },
    {"gains": _EACH, "about": _ABOUT},
    rest=no_other,
)


def read_report(path: Path, place: str) -> dict[str, Any]:
    """What a saved report says; raise where a field is of another kind, or names a code that has no numbers."""
    found: dict[str, Any] = read_json(path, REPORT, "report", place, AGAIN)
    if missing := _missing(found):
        raise BadInput("report", place, AGAIN, why=f"{path.name}: {missing}")
    return found


def _missing(found: Mapping[str, Any]) -> str:
    codes = {LENS, *(code for group in found["groups"].values() for code in group)}
    for name, part in found["parts"].items():
        if unmeasured := sorted(codes - set(part["numbers"])):
            return f"parts.{name} has no numbers of {unmeasured[0]}"
    if any(LENS not in row["numbers"] for row in found["by_position"]):
        return f"by_position has no numbers of {LENS}"
    undefined = sorted(codes - set(found["definitions"]))
    return f"there is no definition of {undefined[0]}" if undefined else ""
