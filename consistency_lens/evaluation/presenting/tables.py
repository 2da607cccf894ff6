"""Which numbers stand in which table: the same for Markdown and the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..about import LENS
from ..bootstrap import Number
from ..quantities import Numbers
from ..report import Report

GAINS = ("before", "after", "gain")


@dataclass(frozen=True)
class Table:
    """Rows of numbers under a heading.

    Args:
        title: the heading.
        columns: names of numbers.
        rows: (group, name, numbers), the group '' where there is none.
        brief: it is shown where there is little room, too.
        whole: it is about all rows.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, str, Numbers]]
    brief: bool = True
    whole: bool = False

    def cells(self) -> list[tuple[str, str, list[str]]]:
        return [(group, name, [cell(numbers.get(c)) for c in self.columns]) for group, name, numbers in self.rows]


def cell(number: Number | None) -> str:
    return "" if number is None else str(number)


def tables_of(report: Report) -> list[Table]:
    """Every table of a report, the most important first."""
    about, tables = report.about, []
    for part, found in report.parts.items():
        whole = part == "all"
        where = f"{'all rows' if whole else f'rows where {report.definitions.get(part, part)}'} ({found.rows:,})"
        rows = [(group, code, found.numbers[code]) for group, code in ordered(report) if found.numbers[code]]
        questions = _measured(list(about.questions), found.numbers)
        tables.append(Table(f"The questions kept apart: {where}", questions, rows, whole=whole))
        if whole:
            details = _measured(about.details, found.numbers)
            tables.append(Table(f"In detail: {where}", details, rows, brief=False, whole=True))
        apart = {f"lens - {code}": numbers for code, numbers in found.differences.items()}
        title = f"{about.title('differences')}: {where}"
        tables.append(_plain(title, _measured(about.order, apart), apart, brief=False))
    judged = dict.fromkeys(name for numbers in report.judged.values() for name in numbers if "/" not in name)
    tables.append(_plain(about.title("judged"), list(judged), report.judged))
    tables.append(_by_kind(about.title("kinds"), report.judged.get(LENS, {})))
    traits = {name: {"value": number} for name, number in report.traits.items()}
    tables.append(_plain(about.title("traits"), ["value"], traits))
    tables.append(_plain(about.title("gains"), GAINS, report.gains))
    kept = _measured(about.order, report.retention)
    tables.append(_plain(about.title("retention"), kept, report.retention))
    return [table for table in tables if table.rows and table.columns]


def headline(report: Report) -> Table:
    """The primary number of the lens, and of the best code of each group that it is compared with, over each part of
    the rows, all of them last."""
    primary, parts = report.primary, sorted(report.parts, key=lambda name: name == "all")
    better = 1 if primary == report.about.primary else -1  # the fallback is better the smaller
    numbers, rows = report.parts["all"].numbers, []
    for group in report.about.groups:
        codes = [code for code in report.groups.get(group.name, []) if primary in numbers[code]]
        if group.brief and codes:
            code = max(codes, key=lambda name: better * numbers[name][primary].value)
            of_parts = {part: found.numbers[code] for part, found in report.parts.items()}
            rows.append((group.name, code, {part: own[primary] for part, own in of_parts.items() if primary in own}))
    return Table(f"{primary}: the lens, and the best of each kind of control", parts, rows)


def _plain(title: str, columns: Sequence[str], numbers: Mapping[str, Numbers], brief: bool = True) -> Table:
    return Table(title, columns, [("", name, row) for name, row in numbers.items()], brief)


def _by_kind(title: str, numbers: Numbers) -> Table:
    """Numbers `name/kind`: a row for each kind, a column for each name."""
    rows: dict[str, Numbers] = {}
    for full, number in numbers.items():
        name, slash, kind = full.partition("/")
        if slash:
            rows.setdefault(kind, {})[name] = number
    columns = dict.fromkeys(name for row in rows.values() for name in row)
    return _plain(title, list(columns), rows)


def _measured(names: Sequence[str], rows: Mapping[str, Numbers]) -> list[str]:
    """Those that some row has."""
    return [name for name in names if any(name in numbers for numbers in rows.values())]


def headings(report: Report) -> dict[str, str]:
    """Group -> heading."""
    return {group.name: group.heading for group in report.about.groups}


def ordered(report: Report) -> list[tuple[str, str]]:
    """Group and code, as they are shown."""
    return [(group, code) for group in headings(report) for code in report.groups.get(group, [])]


def codes_of(report: Report) -> list[tuple[str, str]]:
    """Code and what it is."""
    return [(code, report.definitions[code]) for _, code in ordered(report)]
