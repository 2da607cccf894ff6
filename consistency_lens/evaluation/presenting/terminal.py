"""The report in a terminal: what it comes to on one screen, or all of its tables."""

from __future__ import annotations

from rich.console import Console
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table as Grid
from rich.text import Text

from ..about import LENS, About
from ..bootstrap import Number, shown
from ..report import Report
from .tables import Table, headline, tables_of

WIDEST = 5  # columns of numbers that fit on a screen of 80 characters
REMARKS = 3  # that stand beside the headline


def show(report: Report, console: Console | None = None, whole: bool = False) -> None:
    """The verdict and the headline; the `whole` report is all remarks, and the tables that answer a question."""
    console, about = console or Console(), report.about
    colour = "green" if about.good else "yellow"  # red is for errors
    console.print(Panel(report.verdict, border_style=colour, title="verdict", title_align="left"))
    remarks = report.remarks if whole else report.remarks[:REMARKS]
    for remark in remarks:
        console.print(Padding(Text(remark, style="dim"), (0, 2)))
    tables = [table for table in tables_of(report) if table.brief] if whole else [headline(report)]
    for table in tables:
        if _columns(table, about):
            console.print()
            console.print(_grid(table, about))
    if not whole:
        console.print()
        for part, found in report.parts.items():
            console.print(
                f"{part}: {report.definitions.get(part, 'every row')} ({found.rows:,})", style="dim", markup=False
            )
    console.print("± is the farther end of the 95 % interval over documents; report.md has both.", style="dim")
    if len(remarks) < len(report.remarks):
        console.print(f"report.md has {len(report.remarks) - len(remarks)} more remarks.", style="dim")


def _grid(table: Table, about: About) -> Grid:
    headings = {group.name: group.heading for group in about.groups if table.whole or group.brief}
    grid = Grid(
        title=table.title,
        title_justify="left",
        title_style="bold",
        header_style="dim",
        box=None,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    columns = _columns(table, about)
    grid.add_column("", no_wrap=True)
    for column in columns:
        # With spaces, so that a long name breaks between its words.
        grid.add_column(column.removesuffix("_recovered").replace("_", " "), justify="right", min_width=11)
    last = ""
    for group, name, numbers in table.rows:
        if group and group not in headings:
            continue
        if group not in ("", LENS, last):
            grid.add_row(f"[dim italic]{headings[group]}[/]")
        last = group
        cells = [_cell(numbers.get(column)) for column in columns]
        grid.add_row(name, *cells, style="bold" if name == LENS else None)
    return grid


def _columns(table: Table, about: About) -> list[str]:
    return [name for name in table.columns if name not in about.narrow][:WIDEST]


def _cell(number: Number | None) -> str:
    """The value, and how far its interval reaches, dimmed."""
    if number is None:
        return ""
    reach = max(number.high - number.value, number.value - number.low)
    return f"{shown(number.value)} [dim]±{reach:.2f}[/]".replace("±0.", "±.")
