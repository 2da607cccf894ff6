"""`Report`: everything that was measured, what it comes to, and how it wants to be shown. Plain data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BadInput
from ..files import write_whole
from .about import LENS, About
from .bootstrap import Number
from .quantities import Numbers
from .stored import read_report

if TYPE_CHECKING:
    from rich.console import Console

JSON, MARKDOWN = "report.json", "report.md"


@dataclass(frozen=True)
class Part:
    """The numbers over all rows, or over some.

    Args:
        rows: how many.
        numbers: code -> its numbers.
        differences: control -> the lens minus it.
    """

    rows: int
    numbers: dict[str, Numbers]
    differences: dict[str, Numbers] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """What an evaluation found.

    Args:
        verdict: one sentence: what the numbers come to.
        remarks: further sentences.
        lens, data: what was evaluated, on what.
        horizon: k.
        groups: the codes of each group; `lens` holds the lens, `edit` what no code stands behind.
        parts: `all`, and the subsets of rows that the family names.
        retention: changed code -> the share of the lens's numbers that it keeps.
        traits: of the lens's codes.
        judged: code -> what the family measured of it beyond its effect.
        gains: number -> `before`, `after` and `gain`, where an earlier moment of the lens was measured beside it.
        by_position: bins of P with the numbers of each code.
        training: rows with `step` and what was measured then.
        definitions: name -> what it means, for all the above.
        about: how it wants to be shown.
    """

    verdict: str
    remarks: list[str]
    lens: dict[str, Any]
    data: dict[str, Any]
    horizon: int
    groups: dict[str, list[str]]
    parts: dict[str, Part]
    retention: dict[str, Numbers] = field(default_factory=dict)
    traits: Numbers = field(default_factory=dict)
    judged: dict[str, Numbers] = field(default_factory=dict)
    gains: dict[str, Numbers] = field(default_factory=dict)
    by_position: list[dict[str, Any]] = field(default_factory=list)
    training: list[dict[str, Any]] = field(default_factory=list)
    definitions: dict[str, str] = field(default_factory=dict)
    about: About = field(default_factory=About)

    @property
    def primary(self) -> str:
        """The number that codes are compared by."""
        known = self.parts["all"].numbers[LENS]
        return self.about.primary if self.about.primary in known else self.about.fallback

    def best(self, groups: Sequence[str], part: str = "all") -> str | None:
        """The code of these groups with the highest primary number."""
        numbers, name = self.parts[part].numbers, self.about.primary
        codes = [code for group in groups for code in self.groups.get(group, []) if name in numbers[code]]
        return max(codes, key=lambda code: numbers[code][name].value, default=None)

    def number(self, name: str, code: str = "lens", part: str = "all") -> Number:
        """One number; raise where it was not measured."""
        try:
            return self.parts[part].numbers[code][name]
        except KeyError as missing:
            known = sorted(self.parts) if part not in self.parts else sorted(self.parts[part].numbers.get(code, {}))
            fix = f"Measured were: {', '.join(known) or 'no such code'}."
            raise BadInput("name", f"{part}/{code}/{name}", fix) from missing

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the verdict comes first."""
        return asdict(self)

    @classmethod
    def from_dict(cls, own: Mapping[str, Any]) -> Report:
        parts = {
            name: Part(part["rows"], _each(part["numbers"]), _each(part["differences"]))
            for name, part in own["parts"].items()
        }
        bins = [row | {"numbers": _each(row["numbers"])} for row in own["by_position"]]
        read = {
            "retention": _each(own["retention"]),
            "judged": _each(own["judged"]),
            "traits": _numbers(own["traits"]),
            # Reports of the first versions have none of these.
            "gains": _each(own.get("gains", {})),
            "about": About.from_dict(own["about"]) if "about" in own else About.of_groups(list(own["groups"])),
        }
        return cls(**{**own, **read, "parts": parts, "by_position": bins})

    def save(self, folder: str | Path) -> list[Path]:
        """Write `report.json`, `report.md` and the plots; each file appears whole or not at all."""
        from .presenting.markdown import markdown_of
        from .presenting.plots import draw_all

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        plots = draw_all(self, folder)
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"
        written = [write_whole(folder / JSON, text.encode())]
        return [*written, write_whole(folder / MARKDOWN, markdown_of(self, plots).encode()), *plots.values()]

    @classmethod
    def load(cls, folder: str | Path) -> Report:
        """What `save` wrote."""
        path = Path(folder) / JSON
        if not path.is_file():
            raise BadInput("report", str(folder), "Make one with: run_lens.py evaluate.", why=f"there is no {JSON}")
        return cls.from_dict(read_report(path, str(folder)))

    def show(self, console: Console | None = None, whole: bool = False) -> None:
        """Print what it comes to: the verdict, and the lens beside its best controls.

        Args:
            console: of rich; default stdout.
            whole: print every table that answers a question, too.
        """
        from .presenting.terminal import show

        show(self, console, whole)


def with_parts(
    report: Report, parts: Mapping[str, Part], definitions: Mapping[str, str], judged: Mapping[str, Numbers]
) -> Report:
    """The report with parts of another one of the same lens, on other rows; a code that they lack has no numbers."""
    codes = [LENS, *(code for group in report.groups.values() for code in group)]
    more = {
        name: replace(part, numbers={code: part.numbers.get(code, {}) for code in codes})
        for name, part in parts.items()
    }
    return replace(
        report,
        parts={**report.parts, **more},
        definitions={**report.definitions, **definitions},
        judged={**report.judged, **judged},
    )


def _numbers(stored: Mapping[str, Any]) -> Numbers:
    return {name: Number(**value) for name, value in stored.items()}


def _each(stored: Mapping[str, Any]) -> dict[str, Numbers]:
    return {code: _numbers(numbers) for code, numbers in stored.items()}
