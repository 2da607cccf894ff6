"""`report.md`: readable on GitHub, every number with its interval, its definition and its controls."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .tables import GROUPS, Table, codes_of, tables_of

if TYPE_CHECKING:
    from .report import Report

CAPTIONS = {
    "controls": "kl_recovered of the lens beside all controls",
    "truncation": "What the first words carry",
    "position": "KL by position",
    "training": "Fidelity against readability over training",
}


def markdown_of(report: Report, plots: Mapping[str, Path]) -> str:
    """The whole page; `plots` are the pictures that lie beside it."""
    data = report.data
    corpus = f" of {data['corpus']}" if data["corpus"] else ""
    lines = [
        f"**{report.verdict}**",
        "",
        *(f"- {remark}" for remark in report.remarks),
        "",
        f"Lens: `{report.lens['family']}` for `{report.lens['subject']}` at {', '.join(report.lens['sites'])}. "
        f"Measured on {data['rows']:,} rows from {data['documents']:,} documents of the split "
        f"`{data['split']}`{corpus}, in {data['seconds']:.0f} s. Brackets: 95 % bootstrap intervals over documents.",
        "",
    ]
    for name, path in plots.items():
        lines += [f"![{CAPTIONS[name]}]({path.name})", ""]
    for table in tables_of(report):
        lines += [f"## {table.title}", "", *_table(table), ""]
    lines += _positions(report)
    codes = codes_of(report)
    known = {code for code, _ in codes}
    lines += ["## What is what", "", "| code | meaning |", "|---|---|"]
    lines += [f"| `{code}` | {_safe(meaning)} |" for code, meaning in codes]
    lines += ["", "| number | definition |", "|---|---|"]
    lines += [f"| `{name}` | {_safe(text)} |" for name, text in report.definitions.items() if name not in known]
    return "\n".join(lines) + "\n"


def _table(table: Table) -> list[str]:
    lines = ["| | " + " | ".join(f"`{c}`" for c in table.columns) + " |", "|---" + "|---:" * len(table.columns) + "|"]
    last = ""
    for group, name, cells in table.cells():
        if group and group != last:
            lines.append(f"| *{GROUPS[group]}* |" + " |" * len(table.columns))
            last = group
        label = f"**{name}**" if name == "lens" else name
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return lines


def _positions(report: Report) -> list[str]:
    if not report.by_position:
        return []
    lines = [
        "## KL by position",
        "",
        "| P | rows | lens `kl` | lens `kl_recovered` | mean `kl` |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in report.by_position:
        lens, mean = row["numbers"]["lens"], row["numbers"]["mean"]
        cells = [str(lens.get("kl", "")), str(lens.get("kl_recovered", "")), str(mean.get("kl", ""))]
        lines.append(f"| {row['first']}-{row['last']} | {row['rows']} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _safe(text: str) -> str:
    return text.replace("|", "\\|")
