"""A report on a card: the numbers, every control, and what the family measured besides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...base.saving.lens_files import REPORT
from ...card import CardFacts, Control, Measured, Section
from ...card import Part as CardPart
from ...files import write_whole
from ..about import LENS
from ..bootstrap import Number
from ..quantities import Numbers
from ..report import JSON, MARKDOWN, Part, Report

Row = Mapping[str, Any]

SHOWN = 3
FEWEST = 5  # documents; an interval over fewer says nothing
HARMFUL = 0.5  # explanations are picked among this share of rows, those where the mean activation does most harm


def with_report(facts: CardFacts, report: Report, rows: Sequence[Row] = ()) -> CardFacts:
    """The card of a lens with what its report says.

    Args:
        facts: what is known without one.
        report: of this lens. Its files lie in `report/` of the lens's folder; see `lay_beside`.
        rows: explanations, three of the best and three of the worst of which are shown.
    """
    whole, primary, about = report.parts["all"], report.primary, report.about
    sections = {
        about.title("truth"): _numbers(report, report.judged.get(LENS, {})),
        about.title("code"): [*_kept(report, primary), *_numbers(report, report.traits)],
    }
    good, bad = pick(rows)
    return replace(
        facts,
        verdict=report.verdict,
        alarm=about.alarm,
        stage=None,
        primary=primary,
        numbers=_numbers(report, whole.numbers[LENS], about.order),
        controls=_controls(report, whole, primary),
        parts=[_part(report, name, part, primary) for name, part in report.parts.items() if name != "all"],
        sections=[Section(title, numbers) for title, numbers in sections.items() if numbers],
        evaluated_on=report.data["corpus"] or "its corpus",
        evaluated_split=report.data["split"],
        evaluated_rows=report.data["rows"],
        evaluated_documents=report.data["documents"],
        good=good,
        bad=bad,
        picked=_picked(len(rows), about.zero) if good else "",
        plots={caption: f"{REPORT}/{name}.png" for name, caption in about.pictures.items()},
        report=f"{REPORT}/{MARKDOWN}",
        listings=about.listings,
        limits=about.limits,
    )


def lay_beside(report: Path, lens: Path, facts: CardFacts) -> CardFacts:
    """Copy the files of a report into the folder of its lens; the facts then name the plots that there are."""
    place = lens / REPORT
    place.mkdir(parents=True, exist_ok=True)
    for name in (JSON, MARKDOWN):
        write_whole(place / name, (report / name).read_bytes())
    kept = {}
    for caption, path in facts.plots.items():
        if (report / Path(path).name).is_file():
            write_whole(lens / path, (report / Path(path).name).read_bytes())
            kept[caption] = path
        else:
            (lens / path).unlink(missing_ok=True)  # of an earlier report
    return replace(facts, plots=kept)


def pick(rows: Sequence[Row], count: int = SHOWN) -> tuple[list[Row], list[Row]]:
    """The best and the worst, among the rows where there was something to lose; no two of the best say the same."""
    there = sorted(rows, key=lambda row: -(row["kl_of_baseline"] or 0.0))[: max(round(HARMFUL * len(rows)), 1)]
    ordered = sorted(there, key=lambda row: row["kl"])
    good: list[Row] = []
    for row in ordered:
        if len(good) < min(count, len(ordered) // 2) and row["explanation"] not in {
            other["explanation"] for other in good
        }:
            good.append(row)
    bad = [row for row in reversed(ordered) if row not in good][:count] if good else []
    return good, bad


def _picked(rows: int, baseline: str) -> str:
    return (
        f"Of {rows} held-out rows drawn by chance, the half that matters most: there {baseline} in the place of what "
        "is restored does most harm. Of that half, the three with the lowest KL and the three with the highest, from "
        "what the frozen model predicts to what it predicts with what was restored from the code alone. Most rows lie "
        "between."
    )


def _measured(report: Report, name: str, number: Number, definition: str) -> Measured:
    ends = (number.low, number.high) if report.data["documents"] >= FEWEST else (None, None)
    return Measured(name=name, value=number.value, low=ends[0], high=ends[1], definition=definition)


def _numbers(report: Report, numbers: Numbers, order: Sequence[str] = ()) -> list[Measured]:
    names = [name for name in order if name in numbers] + [name for name in numbers if name not in order]
    return [_measured(report, name, numbers[name], report.definitions[name]) for name in names]


def _controls(report: Report, part: Part, primary: str) -> list[Control]:
    """All of them, the strongest of each group first."""
    found = []
    better = 1 if primary == report.about.fallback else -1
    for group in report.about.groups:
        codes = [code for code in report.groups.get(group.name, []) if primary in part.numbers[code] and code != LENS]
        for code in sorted(codes, key=lambda code: better * part.numbers[code][primary].value):
            number = _measured(report, code, part.numbers[code][primary], report.definitions[code])
            apart = part.differences.get(code, {}).get(primary)
            minus = _measured(report, code, apart, "the lens minus it") if apart else None
            found.append(Control(**vars(number), group=group.on_card or group.heading, apart=minus))
    return found


def _part(report: Report, name: str, part: Part, primary: str) -> CardPart:
    title, about = f"Where {report.definitions.get(name, name)} ({part.rows:,} rows)", report.about
    return CardPart(
        title=title,
        numbers=_numbers(report, {n: v for n, v in part.numbers[LENS].items() if n in about.questions}, about.order),
        controls=_controls(report, part, primary) if primary in part.numbers[LENS] else [],
    )


def _kept(report: Report, primary: str) -> list[Measured]:
    """The share of the lens's score that each way of changing its code leaves."""
    return [
        _measured(
            report, f"kept by {code}", numbers[primary], f"share of {primary} that is left: {report.definitions[code]}"
        )
        for code, numbers in report.retention.items()
        if primary in numbers
    ]
