"""Scores of a text answer against the accepted ones: pure functions, each with the definition that is published.

All take the best over the accepted answers. `exact_match` and `contains` are different numbers and never mixed.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

_ARTICLE = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)

DEFINITIONS = {
    "exact_match": "share of answers that equal an accepted one after lower-casing and without punctuation, articles "
    "and repeated whitespace (SQuAD's normalisation); best over the accepted answers",
    "f1": "harmonic mean of precision and recall over the words of the normalised answers, counted with their "
    "repetitions; best over the accepted answers",
    "contains": "share of answers that hold an accepted one as a run of whole words, both normalised",
}


def normalised(text: str) -> str:
    """Lower case without punctuation, articles and repeated whitespace, in SQuAD's order."""
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, accepted: Sequence[str]) -> float:
    """1 where the normalised answer is an accepted one, else 0."""
    return _best(lambda one, other: float(one == other), answer, accepted)


def f1(answer: str, accepted: Sequence[str]) -> float:
    """2PR / (P + R) over the words; two answers of no words are equal, one of none shares nothing."""
    return _best(_word_f1, answer, accepted)


def contains(answer: str, accepted: Sequence[str]) -> float:
    """1 where an accepted answer stands in the answer, word for word, else 0."""
    return _best(lambda one, other: float(f" {other} " in f" {one} " if other else not one), answer, accepted)


def first_line(text: str) -> str:
    """What is scored of a generated text: its first line that is not empty."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def _best(score: Callable[[str, str], float], answer: str, accepted: Sequence[str]) -> float:
    one = normalised(answer)
    return max((score(one, normalised(other)) for other in accepted), default=0.0)


def _word_f1(one: str, other: str) -> float:
    ours, theirs = one.split(), other.split()
    if not ours or not theirs:
        return float(ours == theirs)
    shared = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * shared / (len(ours) + len(theirs))
