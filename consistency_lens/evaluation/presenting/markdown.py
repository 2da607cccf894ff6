"""`report.md`: readable on GitHub, every number with its interval, its definition and its controls."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ...card.rendering import cell
from ..about import LENS
from ..report import Report
from .tables import Table, codes_of, headings, tables_of


def markdown_of(report: Report, plots: Mapping[str, Path]) -> str:
    """The whole page; `plots` are the pictures that lie beside it."""
    data = report.data
    corpus = f" of {data['corpus']}" if data["corpus"] else ""
    at = f" at {', '.join(report.lens['sites'])}" if report.lens["sites"] else ""
    lines = [
        f"**{report.verdict}**",
        "",
        *(f"- {remark}" for remark in report.remarks),
        "",
        f"Lens: `{report.lens['family']}` for `{report.lens['subject']}`{at}. "
        f"Measured on {data['rows']:,} rows from {data['documents']:,} documents of the split "
        f"`{data['split']}`{corpus}, in {data['seconds']:.0f} s. Brackets: 95 % bootstrap intervals over documents.",
        "",
    ]
    for name, path in plots.items():
        lines += [f"![{report.about.pictures[name]}]({path.name})", ""]
    for table in tables_of(report):
        lines += [f"## {table.title}", "", *_table(table, headings(report)), ""]
    lines += _positions(report)
    for listing in report.about.listings:
        lines += [f"## {listing.title}", "", f"| {' | '.join(listing.columns)} |", "|---" * len(listing.columns) + "|"]
        lines += [f"| {' | '.join(map(cell, row))} |" for row in listing.rows]
        lines.append("")
    codes = codes_of(report)
    known = {code for code, _ in codes}
    lines += ["## What is what", "", "| code | meaning |", "|---|---|"]
    lines += [f"| `{code}` | {_safe(meaning)} |" for code, meaning in codes]
    lines += ["", "| number | definition |", "|---|---|"]
    lines += [f"| `{name}` | {_safe(text)} |" for name, text in report.definitions.items() if name not in known]
    return "\n".join(lines) + "\n"


def _table(table: Table, headings: Mapping[str, str]) -> list[str]:
    lines = ["| | " + " | ".join(f"`{c}`" for c in table.columns) + " |", "|---" + "|---:" * len(table.columns) + "|"]
    last = ""
    for group, name, cells in table.cells():
        if group and group != last:
            lines.append(f"| *{headings[group]}* |" + " |" * len(table.columns))
            last = group
        label = f"**{name}**" if name == LENS else name
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return lines


def _positions(report: Report) -> list[str]:
    if not report.by_position:
        return []
    raw, score = report.about.fallback, report.about.primary
    baseline = "mean" if "mean" in report.by_position[0]["numbers"] else ""
    columns = [(LENS, raw), (LENS, score), *([(baseline, raw)] if baseline else [])]
    head = " | ".join(f"{code} `{name}`" for code, name in columns)
    lines = ["## KL by position", "", f"| P | rows | {head} |", "|---|" + "---:|" * (1 + len(columns))]
    for row in report.by_position:
        cells = [str(row["numbers"][code].get(name, "")) for code, name in columns]
        lines.append(f"| {row['first']}-{row['last']} | {row['rows']} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _safe(text: str) -> str:
    return text.replace("|", "\\|")
