"""The course of training as a picture that follows the page's colours: fidelity against readability."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from brought import brought_by, lies_in
from marking import safe

WIDTH, HEIGHT, LEFT, BOTTOM, EDGE = 440, 300, 62, 52, 24
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
    across, up = (_Scale.over([p[i] for p in points], *ends) for i, ends in enumerate(_ENDS))
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
    axes = "".join(
        [
            f"<text x='{across(v):.1f}' y='{HEIGHT - BOTTOM + 18}' text-anchor='middle'>{v:.{across.digits}f}</text>"
            for v in across.ticks
        ]
        + [f"<text x='{LEFT - 8}' y='{up(v) + 4:.1f}' text-anchor='end'>{v:.{up.digits}f}</text>" for v in up.ticks]
        + [f"<path class='grid' d='M{LEFT} {up(v):.1f}H{WIDTH - EDGE}'/>" for v in up.ticks]
    )
    middle = (HEIGHT - BOTTOM + EDGE) / 2
    names = (
        f"<text x='{(LEFT + WIDTH - EDGE) / 2}' y='{HEIGHT - 8}' text-anchor='middle'>"
        "text_nll in nats per token (right is plainer)</text>"
        f"<text transform='translate(14 {middle}) rotate(-90)' text-anchor='middle'>kl_recovered</text>"
    )
    keys = "".join(
        f"<li><i class='bar {('one', 'two')[i % 2]}'></i> {safe(name)}</li>" for i, name in enumerate(curves)
    )
    title = "Fidelity (kl_recovered) against readability (text_nll) over training; numbers are steps"
    return (
        f"<figure class='curve'><svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img' aria-label='{title}'>"
        f"{axes}{names}{''.join(lines)}</svg><ul class='legend'>{keys}</ul></figure>"
    )


class _Scale:
    """From values to places on the picture."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.high, self.start, self.end = low, high, start, end
        step = 10 ** math.floor(math.log10((high - low) / 3))
        step *= next(times for times in (1, 2, 5, 10) if times * step * 5 >= high - low)
        self.digits = max(0, -math.floor(math.log10(step) + 1e-9))  # as many as tell two ticks apart
        self.ticks = [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float) -> _Scale:
        """With a little room round the outermost values."""
        low, high = min(values), max(values)
        room = 0.08 * (high - low) or max(abs(low), 1.0) * 0.01
        return cls(low - room, high + room, start, end)

    def __call__(self, value: float) -> float:
        return self.start + (self.end - self.start) * (value - self.low) / (self.high - self.low)


# To the right is plainer, that is lower; up is higher.
_ENDS = ((WIDTH - EDGE, LEFT), (HEIGHT - BOTTOM, EDGE))
