"""From samples to a report: which numbers are given of what."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from .controls import LENS
from .definitions import collect
from .numbers import COMPARED, Numbers, difference, numbers_of, retained
from .report import Part, Report
from .samples import Number, Samples

POSITION_BINS = 8


def assemble(
    samples: Samples,
    groups: Mapping[str, Sequence[str]],
    positions: np.ndarray,
    horizon: int,
    *,
    lens: Mapping[str, Any],
    data: Mapping[str, Any],
    judged: Mapping[str, str],
    gains: Mapping[str, Numbers] | None = None,
    training: Sequence[Mapping[str, Any]] = (),
) -> Report:
    """
    Args:
        samples: what was measured.
        groups: `lens`, `edit`, `text`, `ahead`, `tampered` -> the codes in it.
        positions: `[N]`, P of each row.
        horizon: k.
        lens, data: what was judged, on what; told as it is.
        judged: definitions of what judges measured and of the subsets they named.
        gains: what the lens gained since an earlier moment.
        training: rows for the curves.
    """
    codes = [name for group in groups.values() for name in group]
    parts = {"all": _part(samples, groups)} | {name: _part(samples, groups, name) for name in samples.subsets}
    return Report(
        lens=dict(lens),
        data=dict(data),
        horizon=horizon,
        groups={group: list(names) for group, names in groups.items()},
        parts=parts,
        retention=_pairs(
            (code, {name: retained(samples, code, LENS, name) for name in COMPARED if name.startswith("kl")})
            for code in groups.get("tampered", ())
        ),
        traits=numbers_of(samples, "traits", names=samples.records.measures("traits")),
        judged=_pairs((code, dict(numbers_of(samples, code, names=judged))) for code in codes),
        gains=dict(gains or {}),
        by_position=_by_position(samples, codes, positions),
        training=[{name: value for name, value in row.items() if _is_plain(value)} for row in training],
        definitions=collect(codes, samples.records.measures("traits"), judged, horizon),
    )


def _part(samples: Samples, groups: Mapping[str, Sequence[str]], subset: str = "") -> Part:
    rivals = [*groups.get("text", ()), *groups.get("ahead", ())]
    return Part(
        rows=samples.rows(subset),
        numbers={code: numbers_of(samples, code, subset) for group in groups.values() for code in group},
        differences=_pairs(
            (code, {name: difference(samples, LENS, code, name, subset) for name in COMPARED}) for code in rivals
        ),
    )


def _is_plain(value: Any) -> bool:
    """What JSON can hold: a step that went wrong may have logged a NaN."""
    return isinstance(value, str) or (isinstance(value, (int, float)) and math.isfinite(value))


def _pairs(found: Any) -> dict[str, Numbers]:
    """Without what could not be measured."""
    kept: dict[str, Numbers] = {}
    for code, numbers in found:
        sound: Numbers = {name: value for name, value in numbers.items() if isinstance(value, Number)}
        if sound:
            kept[code] = sound
    return kept


def _by_position(samples: Samples, codes: Sequence[str], positions: np.ndarray) -> list[dict[str, Any]]:
    """KL in bins of P that hold about as many rows each."""
    edges = np.unique(np.quantile(positions, np.linspace(0, 1, POSITION_BINS + 1)).astype(int))
    edges[-1] += 1
    inside = [(positions >= low) & (positions < high) for low, high in pairwise(edges)]
    within = {str(i): mask for i, mask in enumerate(inside)}
    binned = samples.within(within)
    return [
        {
            "first": int(low),
            "last": int(high) - 1,
            "rows": binned.rows(str(i)),
            "numbers": {code: numbers_of(binned, code, str(i), ("kl", "kl_recovered")) for code in codes},
        }
        for i, (low, high) in enumerate(pairwise(edges))
    ]  # fmt: skip
