"""How many different things a lens says: a number that only shows over many rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ...evaluation.bootstrap import Records

BLOCK = 500  # rows among which explanations are told apart


def add_distinct(records: Records, texts: Sequence[str], code: str = "traits") -> None:
    """Add to the traits how many different texts, words and pairs of words there are.

    Each row counts by one over how often its words were said, so that the sum is the number of different ones. That
    number falls with the number of rows, whatever the lens does; so rows are counted in blocks of one size, and what
    is left over of a last one does not count.
    """
    words = [text.split() for text in texts]
    units: dict[str, list[list[Any]]] = {
        "distinct": [[text] for text in texts],
        "distinct_1": [[(word,) for word in one] for one in words],
        "distinct_2": [list(pairwise(one)) for one in words],
    }
    whole = len(texts) - len(texts) % BLOCK or len(texts)
    for name, rows in units.items():
        values, weights = np.zeros(len(texts)), np.zeros(len(texts))
        for first in range(0, whole, BLOCK):
            block = rows[first : min(first + BLOCK, whole)]
            counts = Counter(unit for row in block for unit in row)
            values[first : first + len(block)] = [sum(1 / counts[unit] for unit in row) for row in block]
            weights[first : first + len(block)] = [len(row) for row in block]
        records.values[code, name] = [values]
        records.weights[code, name] = [weights]
