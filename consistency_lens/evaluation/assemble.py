"""From samples to a report: which numbers are given of what."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from .about import LENS, About
from .bootstrap import Samples
from .family import FamilyReport
from .quantities import Measured, Numbers, definitions_of, of_each
from .report import Part, Report

POSITION_BINS = 8


def assemble(
    samples: Samples,
    family: FamilyReport,
    groups: Mapping[str, Sequence[str]],
    definitions: Mapping[str, str],
    positions: np.ndarray | None,
    horizon: int,
    *,
    lens: Mapping[str, Any],
    data: Mapping[str, Any],
    training: Sequence[Mapping[str, Any]] = (),
    models: Sequence[str] = (),
) -> Report:
    """The report of what was measured.

    Args:
        samples: what was measured.
        family: which numbers there are, and what they come to.
        groups: of codes.
        definitions: of codes.
        positions: `[N]`, P of each row; None where rows belong to no position.
        horizon: k.
        lens, data: what was evaluated, on what; it goes into the report as it is.
        training: rows for the curves.
        models: names of the models, where there are several: the numbers of each are given beside their means.
    """
    codes, about, of_models = (
        [name for group in groups.values() for name in group],
        family.about(groups),
        of_each(models),
    )
    about = replace(about, details=(*about.details, *of_models))
    quantities = {**family.quantities, **of_models, **family.quantities}  # the family's own definition comes first
    changed = [code for group in about.groups if group.changed for code in groups.get(group.name, ())]
    traits = samples.records.measures("traits")
    over = {code: name for code, name in family.over.items() if name in samples.subsets}
    measured = Measured(_crossed(samples, over), quantities)
    report = Report(
        verdict="",
        remarks=[],
        lens=dict(lens),
        data=dict(data),
        horizon=horizon,
        groups={group: list(names) for group, names in groups.items()},
        parts={
            name or "all": _part(measured, family, about, groups, name, over)
            for name in ("", *samples.subsets)
            if name not in over.values() and samples.rows(name)
        },
        retention=_some((code, measured.retained(code, LENS, family.kept, over.get(code, ""))) for code in changed),
        traits=measured.numbers("traits", names=traits),
        judged=_some((code, measured.numbers(code, names=family.judged)) for code in codes),
        gains=family.gains(measured),
        by_position=[]
        if positions is None
        else _by_position(measured, about, [code for code in codes if code not in over], positions),
        training=[{name: value for name, value in row.items() if _is_plain(value)} for row in training],
        definitions={
            **definitions_of(quantities, horizon),
            **{name: family.traits.get(name, "a trait of the code, as its family measures it") for name in traits},
            **family.judged,
            **definitions,
        },
        about=about,
    )
    verdict, about = family.verdict(report)
    report = replace(report, verdict=verdict, about=about)
    return replace(report, remarks=_remarks(report, family.remarks(report)))


def _part(
    measured: Measured,
    family: FamilyReport,
    about: About,
    groups: Mapping[str, Sequence[str]],
    subset: str,
    over: Mapping[str, str],
) -> Part:
    compared = [code for group in about.groups if group.compared for code in groups.get(group.name, ())]
    codes = [code for group in groups.values() for code in group]
    return Part(
        rows=measured.samples.rows(subset),
        numbers={code: measured.numbers(code, _both(subset, over.get(code, ""))) for code in codes},
        differences=_some((code, measured.differences(LENS, code, family.compared, subset)) for code in compared),
    )


def _both(subset: str, other: str) -> str:
    return f"{subset} & {other}" if subset and other else subset or other


def _crossed(samples: Samples, over: Mapping[str, str]) -> Samples:
    """With the rows that are both of a part and those that a code is measured over."""
    known = samples.subsets
    pairs = {(part, other) for part in known for other in over.values() if part != other and other in known}
    return samples.within(known | {_both(*pair): known[pair[0]] & known[pair[1]] for pair in pairs})


def _is_plain(value: Any) -> bool:
    """What JSON can hold: a step that went wrong may have logged a NaN."""
    return isinstance(value, str) or (isinstance(value, (int, float)) and math.isfinite(value))


def _some(found: Iterable[tuple[str, Numbers]]) -> dict[str, Numbers]:
    """Without codes that have no numbers."""
    return {code: numbers for code, numbers in found if numbers}


def _by_position(
    measured: Measured, about: About, codes: Sequence[str], positions: np.ndarray
) -> list[dict[str, Any]]:
    """KL in bins of P that hold about as many rows each."""
    edges = np.unique(np.quantile(positions, np.linspace(0, 1, POSITION_BINS + 1)).astype(int))
    edges[-1] += 1
    bins = {str(i): (int(low), int(high)) for i, (low, high) in enumerate(pairwise(edges))}
    inside = {name: (positions >= low) & (positions < high) for name, (low, high) in bins.items()}
    binned = replace(measured, samples=measured.samples.within(inside))
    names = (about.fallback, about.primary)
    return [
        {
            "first": low,
            "last": high - 1,
            "rows": binned.samples.rows(name),
            "numbers": {code: binned.numbers(code, name, names) for code in codes},
        }
        for name, (low, high) in bins.items()
    ]


def _remarks(report: Report, of_family: Sequence[str]) -> list[str]:
    """What holds of every report, and between it what the family says."""
    data, remarks = report.data, list(of_family)
    if any("self" in names for names in report.groups.values()):
        exact = f"self is exactly 0 on all {data['rows']} rows"
        if "stored_difference" in data:
            exact += (
                f"; stored activations differ from recomputed ones by at most {data['stored_difference']:.1e} of "
                "their norm"
            )
        remarks.append(f"{exact}.")
    if (near := data.get("near_duplicates_of_split")) is not None:
        remarks.append(
            f"{near} of the {data['documents_of_split']} documents of the split nearly repeat one of another split "
            f"(share most of their 5-grams); {100 * near / data['documents_of_split']:.1f} %."
        )
    return remarks
