"""From sums to the numbers of the report: each formula once, as its definition reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np

from .definitions import NUMBERS
from .samples import Number, Records, Samples, ratio

ROW = "row"  # what does not depend on a code: spread of A, cross-entropy of the clean pass
Numbers = dict[str, Number]
BLOCK = 500  # rows among which explanations are told apart
# For these a control's distance to the lens is given, and what survives tampering.
COMPARED = ("kl_recovered", "kl_horizon_recovered", "kl_after_recovered", "top1", "loss_recovered")


def draws_of(samples: Samples, code: str, name: str, subset: str = "") -> np.ndarray | None:
    """The number and its draws, `[1 + R]`; None where its parts were not measured."""
    match name:
        case "kl_recovered" | "kl_horizon_recovered" | "kl_after_recovered":
            measure = name.removesuffix("_recovered")
            if not samples.has(code, measure) or not samples.has("mean", measure):
                return None
            return 1 - ratio(samples.mean(code, measure, subset), samples.mean("mean", measure, subset))
        case "loss_recovered":
            if not samples.has(code, "ce") or not samples.has(ROW, "ce"):
                return None
            clean = samples.total(ROW, "ce", subset)
            return 1 - ratio(
                samples.total(code, "ce", subset) - clean, samples.total("resample", "ce", subset) - clean
            )
        case "fve" | "fve_nrm":
            error = {"fve": "squared_error", "fve_nrm": "direction_error"}[name]
            spread = {"fve": "spread", "fve_nrm": "direction_spread"}[name]
            if not samples.has(code, error):
                return None
            return 1 - ratio(samples.total(code, error, subset), samples.total(ROW, spread, subset))
        case _:
            return samples.mean(code, name, subset) if samples.has(code, name) else None


def number(samples: Samples, code: str, name: str, subset: str = "") -> Number | None:
    draws = draws_of(samples, code, name, subset)
    return None if draws is None else Number.of(draws)


def numbers_of(samples: Samples, code: str, subset: str = "", names: Iterable[str] = NUMBERS) -> Numbers:
    """Every number of one code that was measured."""
    found = {name: number(samples, code, name, subset) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def difference(samples: Samples, code: str, other: str, name: str, subset: str = "") -> Number | None:
    """`code` minus `other`, row by row the same documents: an interval above 0 means they are apart."""
    here, there = draws_of(samples, code, name, subset), draws_of(samples, other, name, subset)
    return None if here is None or there is None else Number.of(here - there)


def retained(samples: Samples, code: str, whole: str, name: str) -> Number | None:
    """The share of a lens's number that a code made from its own keeps; None where the lens has none to keep."""
    draws = retention_of(samples, code, whole, name)
    return None if draws is None else Number.of(draws)


def retention_of(samples: Samples, code: str, whole: str, name: str) -> np.ndarray | None:
    here, there = draws_of(samples, code, name), draws_of(samples, whole, name)
    return None if here is None or there is None or there[0] <= 0 else ratio(here, there)


def traits_of(records: Records, texts: list[str]) -> None:
    """Add to the lens what only shows over many rows: how many different things it says.

    Each row counts by one over how often its words were said, so that the sum is the number of different ones. That
    number falls with the number of rows, whatever the lens does; so rows are counted in blocks of one size, and what
    is left over of a last one does not count.
    """
    words = [text.split() for text in texts]
    units: dict[str, list[list[Any]]] = {
        "distinct": [[text] for text in texts],
        "distinct_1": [[(word,) for word in said] for said in words],
        "distinct_2": [list(pairwise(said)) for said in words],
    }
    whole = len(texts) - len(texts) % BLOCK or len(texts)
    for name, rows in units.items():
        values, weights = np.zeros(len(texts)), np.zeros(len(texts))
        for first in range(0, whole, BLOCK):
            block = rows[first : min(first + BLOCK, whole)]
            counts = Counter(unit for row in block for unit in row)
            values[first : first + len(block)] = [sum(1 / counts[unit] for unit in row) for row in block]
            weights[first : first + len(block)] = [len(row) for row in block]
        records.values["traits", name] = [values]
        records.weights["traits", name] = [weights]
