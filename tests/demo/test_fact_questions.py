"""Questions of the demo world are about facts that were stated, are not needed near P, and are held."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from consistency_lens.demo.judging.probes import FactProbes
from consistency_lens.demo.judging.questions import FactQuestions
from consistency_lens.demo.stories import stories
from consistency_lens.demo.tokenizer import vocabulary
from consistency_lens.demo.words import FACT_WORDS, KINDS, wordings


class Knows:
    """A probe that always reads the same."""

    def __init__(self, value: str) -> None:
        self.value = value

    def predict(self, x: torch.Tensor) -> list[str]:
        return [self.value] * len(x)


def rows_of(count: int = 40) -> dict[str, list[Any]]:
    known, told = vocabulary(), stories(count, seed=8)
    return {
        "position": [30 + i % 20 for i in range(count)],
        "facts": [[asdict(fact) for fact in story.facts] for story in told],
        "continuation_ids": [[known[w] for w in s.words[30 + i % 20 :][:8]] for i, s in enumerate(told)],
        "site": [torch.zeros(4)] * count,
    }


def test_what_is_asked_was_stated_and_does_not_come_next() -> None:
    rows, known = rows_of(), vocabulary()
    found = FactQuestions().questions(rows, seed=0)
    assert sum(question is not None for question in found) > 30 and found == FactQuestions().questions(rows, seed=0)
    for row, question in enumerate(found):
        if question is None:
            continue
        words = question.text.split()
        assert words[0] == "." and set(words) <= set(known) and not set(words) & set(FACT_WORDS)
        kind, value = FACT_WORDS[question.answer]
        (fact,) = (f for f in rows["facts"][row] if f["kind"] == kind)
        assert fact["value"] == value and fact["stated_at"] <= rows["position"][row]
        assert not {known[word] for word in wordings(kind, value)} & set(rows["continuation_ids"][row])


def test_only_what_a_probe_reads_is_asked() -> None:
    rows, value = rows_of(), next(iter(KINDS["place"]))
    found = FactQuestions(FactProbes({}, {"place": Knows(value)}), "site").questions(rows, seed=0)  # type: ignore[dict-item]
    assert 0 < sum(q is not None for q in found) < 20 and {q.answer for q in found if q} == {value}
