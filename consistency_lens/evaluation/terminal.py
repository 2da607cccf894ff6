"""The report on one screen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table as Grid
from rich.text import Text

from .samples import Number, shown
from .tables import GROUPS, Table, tables_of
from .verdict import verdict_of

if TYPE_CHECKING:
    from .report import Report


WIDEST = 5  # columns of numbers that fit on a screen of 80 characters
SHORT = ("lens", "text", "ahead")  # groups that are shown again for a subset of rows


def show(report: Report, console: Console | None = None) -> None:
    """The verdict, the remarks, and the tables that answer a question."""
    console = console or Console()
    verdict = verdict_of(report)
    good = verdict.sentence.startswith("The ") and not verdict.content_blind
    console.print(
        Panel(verdict.sentence, border_style="green" if good else "red", title="verdict", title_align="left")
    )
    for remark in report.remarks:
        console.print(Padding(Text(remark, style="dim"), (0, 2)))
    for table in tables_of(report):
        if _columns(table) and not table.title.startswith(("In detail", "How far")):
            console.print()
            console.print(_grid(table, GROUPS if "all rows" in table.title else SHORT))
    console.print("\n± is the farther end of the 95 % interval over documents; report.md has both.", style="dim")


def _grid(table: Table, groups: Iterable[str]) -> Grid:
    grid = Grid(
        title=table.title,
        title_justify="left",
        title_style="bold",
        header_style="dim",
        box=None,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    columns = _columns(table)
    grid.add_column("", no_wrap=True)
    for column in columns:
        # With spaces, so that a long name breaks between its words.
        grid.add_column(column.removesuffix("_recovered").replace("_", " "), justify="right", min_width=11)
    last = ""
    for group, name, numbers in table.rows:
        if group and group not in groups:
            continue
        if group not in ("", "lens", last):
            grid.add_row(f"[dim italic]{GROUPS[group]}[/]")
        last = group
        cells = [_cell(numbers.get(column)) for column in columns]
        grid.add_row(name, *cells, style="bold" if name == "lens" else None)
    return grid


def _columns(table: Table) -> list[str]:
    return [name for name in table.columns if name != "kl_after_recovered"][:WIDEST]


def _cell(number: Number | None) -> str:
    """The value, and how far its interval reaches, dimmed."""
    if number is None:
        return ""
    reach = max(number.high - number.value, number.value - number.low)
    return f"{shown(number.value)} [dim]±{reach:.2f}[/]".replace("±0.", "±.")
