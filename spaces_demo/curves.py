"""The course of training as a picture that follows the page's colours: fidelity against readability."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from brought import brought_by, lies_in
from charts import EDGE, LEFT, Frame, Scale
from marking import safe

FRAME = Frame(
    title="Fidelity (kl_recovered) against readability (text_nll) over training; numbers are steps",
    across="text_nll in nats per token (right is plainer)",
    up="kl_recovered",
)
X, Y = "eval_text_nll", "eval_kl_recovered"


def history_of(run: Path) -> list[dict[str, Any]]:
    """What was measured during a run: of each evaluation the step, the readability and the fidelity."""
    path = run / "history.json"
    with brought_by(run, "history.json", "Its training cannot be shown."):
        return measured(json.loads(path.read_text(encoding="utf-8")) if lies_in(path, run) else [])


def measured(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that hold both numbers."""
    names = ("step", X, Y)
    return [row for row in rows if all(math.isfinite(row.get(name, math.nan)) for name in names)]


def draw(curves: dict[str, list[dict[str, Any]]]) -> str:
    """One line a run, its points numbered by step; better is up and to the right."""
    curves = {name: rows for name, rows in curves.items() if rows}
    if not curves:
        return "<p class='empty'>This lens brings no history of its training along.</p>"
    points = [(row[X], row[Y]) for rows in curves.values() for row in rows]
    across, up = (Scale.over([p[i] for p in points], *ends) for i, ends in enumerate(_ENDS))
    lines = []
    for number, rows in enumerate(curves.values()):
        path = [(across(row[X]), up(row[Y])) for row in rows]
        lines.append(
            f"<polyline class='line l{number % 2}' points='{' '.join(f'{x:.1f},{y:.1f}' for x, y in path)}'/>"
        )
        for at, ((x, y), row) in enumerate(zip(path, rows, strict=True)):
            hint = f"step {row['step']}: kl_recovered {row[Y]:.3f}, text_nll {row[X]:.2f}"
            dot = f"<circle class='dot l{number % 2}' cx='{x:.1f}' cy='{y:.1f}' r='5'>"
            lines.append(f"{dot}<title>{safe(hint)}</title></circle>")
            if at in (0, len(rows) - 1):
                below = 20 if at else -10
                lines.append(f"<text x='{x:.1f}' y='{y + below:.1f}' text-anchor='middle'>{row['step']}</text>")
    ticks = [(across(value), f"{value:.{across.digits}f}") for value in across.ticks]
    keys = [f"<li><i class='bar {('one', 'two')[i % 2]}'></i> {safe(name)}</li>" for i, name in enumerate(curves)]
    return FRAME.figure(lines, ticks, up, keys)


# To the right is plainer, that is lower; up is higher.
_ENDS = ((FRAME.right, LEFT), (FRAME.bottom, EDGE))
