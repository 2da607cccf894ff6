"""`Report`: everything that was measured, and what it comes to."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BadInput
from .numbers import Numbers
from .samples import Number
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
        differences: text control -> the lens minus it.
    """

    rows: int
    numbers: dict[str, Numbers]
    differences: dict[str, Numbers] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """What `evaluate_lens` found.

    Args:
        lens, data: what was judged, on what.
        horizon: k.
        groups: `lens`, `edit`, `text`, `ahead`, `tampered` -> the codes in it.
        parts: `all`, and the subsets of rows that judges named.
        retention: tampered code -> the share of the lens's numbers that it keeps.
        traits: of the lens's codes.
        judged: code -> what judges measured of its explanations.
        gains: number -> `before`, `after` and `gain`, where an earlier moment of the lens was judged beside it.
        by_position: bins of P with the numbers of each code.
        training: rows with `step` and what was measured then.
        definitions: name -> what it means, for all the above.
    """

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

    @property
    def verdict(self) -> str:
        """One sentence: what the numbers come to."""
        from .verdict import verdict_of

        return verdict_of(self).sentence

    @property
    def remarks(self) -> list[str]:
        """What has to be said besides."""
        from .verdict import remarks_of

        return remarks_of(self)

    @property
    def content_blind(self) -> bool:
        """A text that does not look at the activation does nearly as well."""
        from .verdict import verdict_of

        return verdict_of(self).content_blind

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
        return {"verdict": self.verdict, "remarks": self.remarks, **asdict(self)}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Report:
        own = {name: value for name, value in stored.items() if name not in ("verdict", "remarks")}
        parts = {
            name: Part(part["rows"], _each(part["numbers"]), _each(part["differences"]))
            for name, part in own["parts"].items()
        }
        bins = [row | {"numbers": _each(row["numbers"])} for row in own["by_position"]]
        read = {
            "retention": _each(own["retention"]),
            "judged": _each(own["judged"]),
            "traits": _numbers(own["traits"]),
            "gains": _each(own.get("gains", {})),  # reports of the first version have none
        }
        return cls(**own | read | {"parts": parts, "by_position": bins})

    def save(self, folder: str | Path) -> list[Path]:
        """Write `report.json`, `report.md` and the plots; each file appears whole or not at all."""
        from .markdown import markdown_of
        from .plots import draw_all

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

    def show(self, console: Console | None = None) -> None:
        """Print what matters."""
        from .terminal import show

        show(self, console)


def write_whole(path: Path, content: bytes) -> Path:
    """Write beside it and rename: a reader never meets half a file."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _numbers(stored: Mapping[str, Any]) -> Numbers:
    return {name: Number(**value) for name, value in stored.items()}


def _each(stored: Mapping[str, Any]) -> dict[str, Numbers]:
    return {code: _numbers(numbers) for code, numbers in stored.items()}
