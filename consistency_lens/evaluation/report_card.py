"""A report, as a card tells it: the numbers, every control, whether it is true, whether it is language."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..base.comparing import TokenSwap, apply_lens
from ..base.comparing.rows import marked
from ..base.modeling import LensModel
from ..base.saving import REPORT
from ..card import CardFacts, Control, Explanation, Measured
from ..card import Part as CardPart
from .controls import LENS
from .limits import limits_of
from .markdown import CAPTIONS
from .numbers import Numbers
from .report import JSON, MARKDOWN, Part, Report, write_whole
from .samples import Number
from .tables import ORDER, QUESTIONS

HEADINGS = {
    "text": "words that do not come from this activation",
    "ahead": "words that look ahead",
    "edit": "vectors, no words",
    "tampered": "the lens's own words, tampered with",
}
SHOWN = 3
HARMFUL = 0.5  # explanations are picked among this share of rows, those where the mean activation does most harm


def with_report(facts: CardFacts, report: Report, rows: Sequence[Explanation] = ()) -> CardFacts:
    """The card of a lens with what its report says.

    Args:
        facts: what is known without one.
        report: of this lens. Its files lie in `report/` of the lens's folder; see `lay_beside`.
        rows: explanations, three of the best and three of the worst of which are shown.
    """
    whole = report.parts["all"]
    primary = "kl_recovered" if "kl_recovered" in whole.numbers[LENS] else "kl"
    good, bad = pick(rows)
    return replace(
        facts,
        verdict=report.verdict,
        content_blind=report.content_blind,
        stage=None,
        primary=primary,
        numbers=_numbers(report, whole.numbers[LENS], ORDER),
        controls=_controls(report, whole, primary),
        parts=[_part(report, name, part, primary) for name, part in report.parts.items() if name != "all"],
        truth=_numbers(report, report.judged.get(LENS, {})),
        readability=[*_kept(report, primary), *_numbers(report, report.traits)],
        evaluated_on=report.data["corpus"] or "its corpus",
        evaluated_split=report.data["split"],
        evaluated_rows=report.data["rows"],
        evaluated_documents=report.data["documents"],
        good=good,
        bad=bad,
        picked=_picked(len(rows)) if good else "",
        plots={caption: f"{REPORT}/{name}.png" for name, caption in CAPTIONS.items()},
        report=f"{REPORT}/{MARKDOWN}",
        limits=limits_of(report),
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


@torch.no_grad()
def explained(lens: LensModel, batches: Iterable[Mapping[str, Any]], mean: torch.Tensor) -> list[Explanation]:
    """What the lens says about some rows, and what that does to the subject."""
    frozen, found = lens.subject, []
    assert frozen is not None
    for batch in batches:
        applied = apply_lens(lens, frozen, batch)
        swap = applied.comparison
        assert isinstance(swap, TokenSwap)
        of_mean = swap.measure([edit.at(mean) for edit in applied.edits])["kl"]
        for i, said in enumerate(lens.describe(applied.code)):
            own = swap.prefix.input_ids[i][swap.prefix.mask[i].bool()].tolist()
            before, after = applied.likeliest(frozen.tokenizer, i, 2)
            found.append(
                Explanation(
                    context=marked(frozen.tokenizer, own),
                    text=str(said["explanation"]),
                    before=_shown(before),
                    after=_shown(after),
                    score=float(applied.kl[i]),
                    of_mean=float(of_mean[i]),
                )
            )
    return found


def pick(rows: Sequence[Explanation], count: int = SHOWN) -> tuple[list[Explanation], list[Explanation]]:
    """The best and the worst, among the rows where there was something to lose; no two of the best say the same."""
    there = sorted(rows, key=lambda row: -(row.of_mean or 0.0))[: max(round(HARMFUL * len(rows)), 1)]
    ordered = sorted(there, key=lambda row: row.score)
    good: list[Explanation] = []
    for row in ordered:
        if len(good) < min(count, len(ordered) // 2) and row.text not in {other.text for other in good}:
            good.append(row)
    bad = [row for row in reversed(ordered) if row not in good][:count] if good else []
    return good, bad


def _picked(rows: int) -> str:
    return (
        f"Of {rows} held-out rows drawn by chance, the half where the activation matters most: there the mean in its "
        "place does most harm. Of that half, the three with the lowest KL and the three with the highest, from what "
        "the subject says next to what it says with what was restored from the words alone. Most rows lie between."
    )


def _shown(pairs: Sequence[tuple[str, float]]) -> str:
    shown = [pair for i, pair in enumerate(pairs) if i == 0 or pair[1] >= 0.1]
    return ", ".join(
        f"{token.strip() if token.strip().isalnum() else repr(token)} {chance:.2f}" for token, chance in shown
    )


def _measured(name: str, number: Number, definition: str) -> Measured:
    return Measured(name=name, value=number.value, low=number.low, high=number.high, definition=definition)


def _numbers(report: Report, numbers: Numbers, order: Sequence[str] = ()) -> list[Measured]:
    names = [name for name in order if name in numbers] + [name for name in numbers if name not in order]
    return [_measured(name, numbers[name], report.definitions[name]) for name in names]


def _controls(report: Report, part: Part, primary: str) -> list[Control]:
    """All of them, the strongest of each group first."""
    found = []
    for group, heading in HEADINGS.items():
        codes = [code for code in report.groups.get(group, []) if primary in part.numbers[code]]
        better = 1 if primary == "kl" else -1  # of KL less is better
        for code in sorted(codes, key=lambda code: better * part.numbers[code][primary].value):
            number = part.numbers[code][primary]
            apart = part.differences.get(code, {}).get(primary)
            found.append(
                Control(
                    name=code,
                    value=number.value,
                    low=number.low,
                    high=number.high,
                    definition=report.definitions[code],
                    group=heading,
                    apart=_measured(code, apart, "the lens minus it") if apart else None,
                )
            )
    return found


def _part(report: Report, name: str, part: Part, primary: str) -> CardPart:
    title = f"Where {report.definitions.get(name, name)} ({part.rows:,} rows)"
    return CardPart(
        title=title,
        numbers=_numbers(report, {n: v for n, v in part.numbers[LENS].items() if n in QUESTIONS}, ORDER),
        controls=_controls(report, part, primary) if primary in part.numbers[LENS] else [],
    )


def _kept(report: Report, primary: str) -> list[Measured]:
    """The share of the lens's score that each way of spoiling its words leaves."""
    return [
        _measured(f"kept by {code}", numbers[primary], f"share of {primary} that is left: {report.definitions[code]}")
        for code, numbers in report.retention.items()
        if primary in numbers
    ]
