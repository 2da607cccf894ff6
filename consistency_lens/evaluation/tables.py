"""Which numbers stand in which table: the same for Markdown and the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .controls import LENS
from .definitions import of_code
from .numbers import Numbers
from .samples import Number

if TYPE_CHECKING:
    from .report import Report

# No longer than the longest code, whose column they head.
GROUPS = {
    "lens": "the lens",
    "text": "codes not from A",
    "ahead": "text, looking ahead",
    "edit": "edits, no code",
    "tampered": "its code, tampered",
}
QUESTIONS = ("kl_recovered", "kl_horizon_recovered", "kl_after_recovered", "top1", "fve")
DETAILS = ("kl", "kl_horizon", "kl_after", "loss_recovered", "fve_nrm", "cosine", "norm_ratio")
ORDER = (*QUESTIONS, *DETAILS)
GAINS = ("before", "after", "gain")


@dataclass(frozen=True)
class Table:
    """Rows of numbers under a heading. `rows` are (group, name, numbers), the group '' where there is none."""

    title: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, str, Numbers]]

    def cells(self) -> list[tuple[str, str, list[str]]]:
        return [(group, name, [cell(numbers.get(c)) for c in self.columns]) for group, name, numbers in self.rows]


def cell(number: Number | None) -> str:
    return "" if number is None else str(number)


def tables_of(report: Report) -> list[Table]:
    """Every table of a report, the most important first."""
    ordered = [(group, code) for group in GROUPS for code in report.groups.get(group, [])]
    tables = []
    for part, found in report.parts.items():
        of_rows = "all rows" if part == "all" else f"rows where {report.definitions.get(part, part)}"
        where = f"{of_rows} ({found.rows:,})"
        rows = [(group, code, found.numbers[code]) for group, code in ordered if found.numbers[code]]
        tables.append(Table(f"The questions kept apart: {where}", _named(QUESTIONS, found.numbers), rows))
        if part == "all":
            tables.append(Table(f"In detail: {where}", _named(DETAILS, found.numbers), rows))
        apart = {f"lens - {code}": numbers for code, numbers in found.differences.items()}
        tables.append(_plain(f"How far the lens is above text: {where}", _named(ORDER, apart), apart))
    judged = dict.fromkeys(name for numbers in report.judged.values() for name in numbers if "/" not in name)
    tables.append(_plain("Where the truth is known", list(judged), report.judged))
    tables.append(_by_kind(report.judged.get(LENS, {})))
    traits = {name: {"value": number} for name, number in report.traits.items()}
    tables.append(_plain("The code itself", ["value"], traits))
    tables.append(_plain("Since its warm start: what training on function changed", GAINS, report.gains))
    kept = _named(ORDER, report.retention)
    tables.append(_plain("Language or a private code: share that survives tampering", kept, report.retention))
    return [table for table in tables if table.rows]


def _plain(title: str, columns: Sequence[str], numbers: Mapping[str, Numbers]) -> Table:
    return Table(title, columns, [("", name, row) for name, row in numbers.items()])


def _by_kind(numbers: Numbers) -> Table:
    """Numbers `name/kind`: a row for each kind, a column for each name."""
    rows: dict[str, Numbers] = {}
    for full, number in numbers.items():
        name, slash, kind = full.partition("/")
        if slash:
            rows.setdefault(kind, {})[name] = number
    columns = dict.fromkeys(name for row in rows.values() for name in row)
    return _plain("By kind: what the lens names, and what the activation holds", list(columns), rows)


def _named(names: Sequence[str], rows: Mapping[str, Numbers]) -> list[str]:
    """Those that some row has."""
    return [name for name in names if any(name in numbers for numbers in rows.values())]


def codes_of(report: Report) -> list[tuple[str, str]]:
    """Code and what it is."""
    codes = [code for group in GROUPS for code in report.groups.get(group, [])]
    return [(code, report.definitions.get(code) or of_code(code)) for code in codes]
