"""`run_lens.py explain`: a text, token by token."""

from __future__ import annotations

import json
import sys

from accelerate import PartialState
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ...columns import PREDICTIONS, heading, shown
from ...errors import BadInput
from ..parsing.request import Request
from .report import load_lens, named_lens, require_family


def explain(request: Request) -> None:
    """A table for people, or one JSON object per line."""
    named_lens(request)
    require_family(request)
    if not request.text:
        raise BadInput("text", request.text, 'Write what to explain: run_lens.py explain --lens RUN "some text".')
    positions = parse_positions(request.explanation.positions)
    family = request.family
    family.require_options(whole_run=False)
    rows = family.explain(load_lens(request), request.text, positions)
    if not PartialState().is_main_process:
        return
    if request.explanation.json:
        for row in rows:
            sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")
        return
    table = Table(header_style="dim", box=None)
    for name in ("position", "token", "explanation", "kl", *PREDICTIONS):
        table.add_column(heading(name), justify="right" if name in ("position", "kl") else "left", overflow="fold")
    for row in rows:
        table.add_row(
            str(row["position"]),
            f"[bold cyan]{escape(row['token'])}[/]",
            f"[bold]{escape(family.cell_of(row))}[/]",
            f"{row['kl']:.3f}",
            *(escape(shown(row[side])) for side in PREDICTIONS),
        )
    Console().print(table)


def parse_positions(given: str | None) -> list[int] | None:
    """`3,5,-1` as numbers."""
    if given is None:
        return None
    try:
        return [int(part) for part in given.split(",")]
    except ValueError as error:
        raise BadInput("positions", given, "Write whole numbers with commas between, as in 3,5,-1.") from error
