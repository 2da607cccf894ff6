"""A plain label for each feature: the tokens at which, after which or before which it is mostly active.

A label is a set of one to five tokens and their place: at the feature's own token, before it, or behind it. It is made
of one half of a uniform sample of the tokens on which the feature was active, and scored on the other half: by how
well it predicts the feature, precision and recall in one number (F1).

Shapes: F features, R drawn tokens of each, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .gathering import Layer
from .keeping import ABSENT

WORDS = ("after", "at", "before")  # the label's tokens stand before, at or behind the token that is read
MOST = 5  # tokens of a label
ENOUGH = 20  # times that a feature was active, for a score to mean anything


@dataclass(frozen=True)
class Label:
    """
    Args:
        place: one of `WORDS`.
        ids: of its tokens, the commonest first; none for a feature that was never active.
        precision: on which share of the tokens on which the feature is active the label is right.
        recall: on which share of the tokens that the label names the feature is active.
    """

    place: str
    ids: tuple[int, ...]
    precision: float
    recall: float

    @property
    def score(self) -> float:
        """F1."""
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0


NONE = Label("at", (), 0.0, 0.0)


def labels_of(layer: Layer, occurrences: np.ndarray) -> list[Label]:
    """One for each feature.

    Args:
        layer: what was gathered of it.
        occurrences: as in `Gathered`.
    """
    kept, there = layer.drawn, layer.drawn.there
    return [_label(kept.ids[f][there[f]], int(layer.count[f]), occurrences) for f in range(len(layer.count))]


def of_others(layer: Layer, occurrences: np.ndarray, labels: Sequence[Label], seed: int = 0) -> np.ndarray:
    """The control: scores of labels on features that they were not made for, one for each that was active often."""
    often = (layer.count >= ENOUGH).nonzero()[0]
    other = np.roll(np.random.default_rng(seed).permutation(often), 1)
    mine = np.random.default_rng(seed).permutation(often)
    scores = []
    for feature, theirs in zip(mine, other, strict=True):
        held = layer.drawn.ids[feature][layer.drawn.there[feature]][1::2]
        given = labels[theirs]
        scores.append(_scored(given.place, given.ids, held, int(layer.count[feature]), occurrences).score)
    return np.array(scores)


def _label(drawn: np.ndarray, count: int, occurrences: np.ndarray) -> Label:
    if not len(drawn):
        return NONE
    made, held = (drawn[::2], drawn[1::2]) if len(drawn) > 1 else (drawn, drawn)
    best = NONE
    for column, place in enumerate(WORDS):
        own = made[:, column]
        ids, times = np.unique(own[own != ABSENT], return_counts=True)
        ids = ids[np.argsort(-times, kind="stable")][:MOST]
        for size in range(1, len(ids) + 1):
            found = _scored(place, tuple(ids[:size].tolist()), made, count, occurrences)
            if found.score > best.score:
                best = found
    return _scored(best.place, best.ids, held, count, occurrences)


def _scored(place: str, ids: tuple[int, ...], drawn: np.ndarray, count: int, occurrences: np.ndarray) -> Label:
    column = WORDS.index(place)
    named = int(occurrences[column, list(ids)].sum())
    precision = float(np.isin(drawn[:, column], ids).mean()) if len(drawn) else 0.0
    return Label(place, ids, precision, min(1.0, precision * count / named) if named else 0.0)
