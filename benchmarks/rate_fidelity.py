"""What each medium buys: bits per token or position of a code against the KL recovered, with the controls.

    python benchmarks/rate_fidelity.py outputs/demo outputs/sparse-demo outputs/wire-demo --out outputs/rate

Everything is taken from the reports of these runs; nothing is computed again. Several runs of a family, as of
transcoders of other L0, are further points of its line. docs/rate_fidelity.md says what a bit is in each medium.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from consistency_lens import Report
from consistency_lens.errors import BadInput
from consistency_lens.evaluation.about import LENS
from consistency_lens.evaluation.bootstrap import Number
from consistency_lens.text.report.definitions import LOOKS_AHEAD, TEXT, truncation

KL, REPORT = "kl_recovered", "report"
MEDIA = {"consistency_lens": "words", "crosslayer_transcoder": "features", "latent_wire": "soft tokens"}
COLOURS = {"words": "#0072b2", "features": "#d55e00", "soft tokens": "#009e73"}


@dataclass(frozen=True)
class Point:
    """One code of one run.

    Args:
        medium, run: words, features or soft tokens; the folder.
        code: as the report calls it; LENS is the lens as it was trained.
        bits: per token that is read, or per position that is explained.
        value, low, high: kl_recovered with its interval.
        control: it does not come from the lens.
    """

    medium: str
    run: str
    code: str
    bits: float
    value: float
    low: float
    high: float
    control: bool


def points_of(report: Report, run: str) -> list[Point]:
    """The lens at each rate that its report has, then the controls, by rate."""
    medium = MEDIA.get(report.lens["family"])
    if medium is None:
        raise BadInput("runs", run, f"Give runs of {', '.join(MEDIA)}.", why=f"its family is {report.lens['family']}")
    numbers = report.parts["all"].numbers
    found = [
        Point(medium, run, code, bits, score.value, score.low, score.high, control)
        for code, bits, control in {"words": _words, "features": _features, "soft tokens": _soft}[medium](report)
        if (score := numbers.get(code, {}).get(KL)) is not None
    ]
    return sorted(found, key=lambda point: (point.control, point.bits, point.code))


def _words(report: Report) -> Iterator[tuple[str, float, bool]]:
    """A word is worth what the frozen model needs to say it: its negative log-likelihood."""
    bits, length = report.traits["text_nll"].value / math.log(2), report.traits["length"].value
    for code in report.parts["all"].numbers:
        if kept := truncation(code):
            yield code, min(kept, length) * bits, False
    yield LENS, length * bits, False
    for group in (TEXT, LOOKS_AHEAD):
        yield from ((code, length * bits, True) for code in report.groups.get(group, []) if not truncation(code))


def _features(report: Report) -> Iterator[tuple[str, float, bool]]:
    """The report's `rate`, which is which features are active, and b bits for the value of each."""
    numbers, own = report.parts["all"].numbers[LENS], report.traits["value_bits"].value
    rate, active = numbers["rate"].value, numbers["l0"].value * len(report.lens["sites"])
    for code in report.parts["all"].numbers:
        bits = code.removeprefix("values_")
        if bits.isdigit():
            yield code, rate + (int(bits) - own) * active, False
    yield LENS, rate, False
    for code in ("shuffled", "random", "pca", "per_layer"):
        yield code, rate, True


def _soft(report: Report) -> Iterator[tuple[str, float, bool]]:
    """Bytes on the wire, headers included, over the tokens of the passage; truncated texts by their own bytes."""
    tokens = report.traits["vectors"].value * report.traits["tokens_per_vector"].value
    for code, numbers in report.judged.items():
        if "bytes" in numbers and code != "text":
            lens = code == LENS or code.endswith(("fp16", *(f"int{bits}" for bits in (4, 6, 8))))
            yield code, 8 * numbers["bytes"].value / tokens, not lens
    yield "shuffled", 8 * report.judged[LENS]["bytes"].value / tokens, True


def table(points: Sequence[Point]) -> str:
    """In Markdown."""
    lines = ["| medium | run | code | bits | kl_recovered |", "|---|---|---|---:|---|"]
    for point in points:
        name = "the lens" if point.code == LENS else f"`{point.code}`" + (", control" if point.control else "")
        number = Number(point.value, point.low, point.high)
        lines.append(f"| {point.medium} | {point.run} | {name} | {point.bits:.1f} | {number} |")
    return "\n".join(lines) + "\n"


def draw(points: Sequence[Point], path: Path) -> Path:
    """Lines of lenses, with intervals; controls as crosses of the same colour. What lies below -1 is at the edge."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.6), dpi=150, layout="constrained")
    axes = figure.subplots()
    for medium in dict.fromkeys(point.medium for point in points):
        for control in (False, True):
            some = sorted((p for p in points if (p.medium, p.control) == (medium, control)), key=lambda p: p.bits)
            values = [max(point.value, -1.0) for point in some]
            ends: Any = [[v - max(p.low, -1.0) for v, p in zip(values, some, strict=True)]]
            ends.append([max(p.high, -1.0) - v for v, p in zip(values, some, strict=True)])
            axes.errorbar(
                [point.bits for point in some],
                values,
                yerr=[[max(end, 0.0) for end in side] for side in ends],
                color=COLOURS[medium],
                fmt="x" if control else "o-",
                alpha=0.5 if control else 1.0,
                label=f"{medium}: controls" if control else medium,
            )
    axes.axhline(0, color="#333333", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel("bits per token or position")
    axes.set_ylabel(KL)
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


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="folders of runs, of lenses or of reports")
    parser.add_argument("--out", type=Path, default=Path("outputs/rate"), help="folder of table, figure and points")
    given = parser.parse_args(words)
    points = [point for run in given.runs for point in points_of(report_in(run), run)]
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "rate_fidelity.json").write_text(json.dumps([asdict(point) for point in points], indent=1) + "\n")
    (given.out / "rate_fidelity.md").write_text(table(points), "utf-8")
    draw(points, given.out / "rate_fidelity.png")
    print(table(points), end="")


if __name__ == "__main__":
    main()
