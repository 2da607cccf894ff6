"""What each medium buys: bits per token or position of a code against the KL recovered, with the controls.

    python benchmarks/rate_fidelity.py outputs/demo outputs/sparse-demo outputs/wire-demo --out outputs/rate

Everything is taken from the reports of these runs; nothing is computed again. Several runs of a family, as of
transcoders of other L0, are further points of its line. docs/rate_fidelity.md says what a bit is in each medium.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from consistency_lens import BadInput, RatePoint, Report, rate_points

REPORT = "report"
COLOURS = {"words": "#0072b2", "features": "#d55e00", "soft tokens": "#009e73"}


def table(points: Sequence[RatePoint]) -> str:
    """In Markdown."""
    lines = ["| medium | run | code | bits | kl_recovered |", "|---|---|---|---:|---|"]
    for point in points:
        name = f"`{point.name}`, control" if point.control else point.name
        lines.append(f"| {point.medium} | {point.run} | {name} | {point.bits:.1f} | {point.score} |")
    return "\n".join(lines) + "\n"


def draw(points: Sequence[RatePoint], path: Path) -> Path:
    """A line for each run with its intervals, in the colour of its medium; controls as crosses of the same colour."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.6), dpi=150, layout="constrained")
    axes = figure.subplots()
    named = set[str]()
    for medium, line, control in dict.fromkeys((point.medium, point.line, point.control) for point in points):
        some = [point for point in points if (point.medium, point.line, point.control) == (medium, line, control)]
        low, values, high = zip(*(point.drawn for point in some), strict=True)
        ends: Any = [
            [v - x for v, x in zip(values, low, strict=True)],
            [x - v for v, x in zip(values, high, strict=True)],
        ]
        label = f"{medium}: controls" if control else medium
        axes.errorbar(
            [point.bits for point in some],
            values,
            yerr=ends,
            color=COLOURS[medium],
            fmt="x" if control else "o-",
            alpha=0.5 if control else 1.0,
            label=None if label in named else label,
        )
        named.add(label)
    axes.axhline(0, color="#333333", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel("bits per token or position")
    axes.set_ylabel("kl_recovered")
    axes.legend(fontsize=8)
    figure.savefig(path)
    return path


def report_in(run: str) -> Report:
    """Of a run, of a lens, or as it lies there."""
    places = [Path(run), Path(run) / REPORT]
    found = next((place for place in places if (place / "report.json").is_file()), None)
    if found is None:
        raise BadInput("runs", run, "Give folders of runs that have a report.", why="no report.json is in it")
    return Report.load(found)


def names_of(runs: Sequence[str]) -> list[str]:
    """The folder of each run, or the paths as they were given where two folders are called the same."""
    whole = [Path(run).resolve() for run in runs]
    short = [next(part for part in reversed(path.parts) if part not in ("lens", REPORT)) for path in whole]
    return short if len(set(short)) == len(short) else list(runs)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="folders of runs, of lenses or of reports")
    parser.add_argument("--out", type=Path, default=Path("outputs/rate"), help="folder of table, figure and points")
    given = parser.parse_args(words)
    named = zip(given.runs, names_of(given.runs), strict=True)
    points = [point for run, name in named for point in rate_points(report_in(run), name)]
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "rate_fidelity.json").write_text(json.dumps([asdict(point) for point in points], indent=1) + "\n")
    (given.out / "rate_fidelity.md").write_text(table(points), "utf-8")
    draw(points, given.out / "rate_fidelity.png")
    print(table(points), end="")


if __name__ == "__main__":
    main()
