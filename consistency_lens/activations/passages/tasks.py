"""Examples without labels, cut out of any text: passage recall, continuation and reconstruction."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..corpus import Document
from .arguments import PassageArguments
from .example import Example
from .units import between, ends_of


def examples_of_text(document: Document, rules: PassageArguments) -> Iterator[Example]:
    """One example for each window of `passage_words` words; which, depends on seed, document and window alone.

    The last window leaves the words of its continuation outside. What is too short for a recall is left out.
    """
    ends = ends_of(document.text)
    after = rules.lead_words + rules.answer_words
    for window, first in enumerate(range(0, len(ends), rules.passage_words)):
        last = min(first + rules.passage_words, len(ends) - after)
        if last - first >= rules.least_words:
            yield _example(
                document, ends, first, last, np.random.default_rng([rules.seed, document.doc_id, window]), rules
            )


def _example(
    document: Document, ends: list[int], first: int, last: int, rng: np.random.Generator, rules: PassageArguments
) -> Example:
    text, drawn = document.text, rng.random()
    passage = between(text, ends, first, last).lstrip()
    if drawn < rules.reconstruction_share:
        return Example(document.doc_id, passage, "", (passage,), "reconstruction")
    if drawn < rules.reconstruction_share + rules.recall_share:
        start = first + int(rng.integers(last - first - rules.least_words + 1))
        middle = start + rules.prompt_words
        prompt = between(text, ends, start, middle).lstrip()
        answer = between(text, ends, middle, middle + rules.answer_words)
        return Example(document.doc_id, passage, prompt, (answer,), "recall", ends=False)
    middle = last + rules.lead_words
    stop = middle + rules.answer_words
    prompt, answer = between(text, ends, last, middle), between(text, ends, middle, stop)
    return Example(document.doc_id, passage, prompt, (answer,), "continuation", ends=stop == len(ends))
