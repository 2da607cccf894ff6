"""From samples to a report: which numbers are given of what."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from .about import LENS, About
from .bootstrap import Number, Samples
from .family import FamilyReport
from .quantities import Numbers, definitions_of, difference, numbers_of, retained
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
    """
    codes, about = [name for group in groups.values() for name in group], family.about(groups)
    changed = [code for group in about.groups if group.changed for code in groups.get(group.name, ())]
    traits, quantities = samples.records.measures("traits"), family.quantities
    report = Report(
        verdict="",
        remarks=[],
        lens=dict(lens),
        data=dict(data),
        horizon=horizon,
        groups={group: list(names) for group, names in groups.items()},
        parts={name or "all": _part(samples, family, about, groups, name) for name in ("", *samples.subsets)},
        retention=_sound(
            (code, {name: retained(samples, code, LENS, name, quantities) for name in family.kept}) for code in changed
        ),
        traits=numbers_of(samples, "traits", names=traits),
        judged=_sound((code, dict(numbers_of(samples, code, names=family.judged))) for code in codes),
        gains=family.gains(samples),
        by_position=[] if positions is None else _by_position(samples, family, about, codes, positions),
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
    samples: Samples, family: FamilyReport, about: About, groups: Mapping[str, Sequence[str]], subset: str
) -> Part:
    compared = [code for group in about.groups if group.compared for code in groups.get(group.name, ())]
    of, quantities = family.compared, family.quantities
    return Part(
        rows=samples.rows(subset),
        numbers={
            code: numbers_of(samples, code, subset, quantities=quantities)
            for group in groups.values()
            for code in group
        },
        differences=_sound(
            (code, {name: difference(samples, LENS, code, name, subset, quantities) for name in of})
            for code in compared
        ),
    )


def _is_plain(value: Any) -> bool:
    """What JSON can hold: a step that went wrong may have logged a NaN."""
    return isinstance(value, str) or (isinstance(value, (int, float)) and math.isfinite(value))


def _sound(found: Iterable[tuple[str, Mapping[str, Number | None]]]) -> dict[str, Numbers]:
    """Without what could not be measured."""
    kept = {code: {name: n for name, n in numbers.items() if n is not None} for code, numbers in found}
    return {code: numbers for code, numbers in kept.items() if numbers}


def _by_position(
    samples: Samples, family: FamilyReport, about: About, codes: Sequence[str], positions: np.ndarray
) -> list[dict[str, Any]]:
    """KL in bins of P that hold about as many rows each."""
    edges = np.unique(np.quantile(positions, np.linspace(0, 1, POSITION_BINS + 1)).astype(int))
    edges[-1] += 1
    bins = list(pairwise(edges))
    binned = samples.within({str(i): (positions >= low) & (positions < high) for i, (low, high) in enumerate(bins)})
    names, quantities = (about.fallback, about.primary), family.quantities
    return [
        {
            "first": int(low),
            "last": int(high) - 1,
            "rows": binned.rows(str(i)),
            "numbers": {code: numbers_of(binned, code, str(i), names, quantities) for code in codes},
        }
        for i, (low, high) in enumerate(bins)
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
