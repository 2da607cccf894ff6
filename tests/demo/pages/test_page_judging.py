"""Questions behind a page, and whether explanations name what is held and not needed soon."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
import torch

from consistency_lens.demo.judging.probes import FactProbes
from consistency_lens.demo.pages.judging import PRECISION, RECALL, HeldJudge, PageQuestions
from consistency_lens.demo.pages.writing import PAGE, SEAL, stories
from consistency_lens.demo.tokenizer import vocabulary
from consistency_lens.demo.words import FACT_WORDS, KINDS, wordings


class Knows:
    """A probe that reads the number that a vector begins with."""

    def __init__(self, kind: str) -> None:
        self.values = list(KINDS[kind])

    def predict(self, x: torch.Tensor) -> list[str]:
        return [self.values[int(i)] for i in x[:, 0]]


def rows_of(count: int = 30) -> dict[str, list[Any]]:
    known, told = vocabulary(), stories(count, seed=8)
    return {
        "position": [SEAL if i % 3 else SEAL + 1 for i in range(count)],
        "facts": [[asdict(fact) for fact in row.facts] for row in told],
        "continuation_ids": [[known[word] for word in row.words[SEAL : PAGE + 15]] for row in told],
        "site": [torch.zeros(4)] * count,
    }


def test_a_page_is_asked_about_at_its_seal() -> None:
    rows = rows_of()
    found = PageQuestions().questions(rows, seed=0)
    for row, question in enumerate(found):
        assert (question is None) == (row % 3 == 0), "each page holds something that is not needed at once"
        if question is not None:
            words = question.text.split()
            assert words[0] != "." and set(words) <= set(vocabulary()) and not set(words) & set(FACT_WORDS)
            kind, value = FACT_WORDS[question.answer]
            assert (kind, value) in {(fact["kind"], fact["value"]) for fact in rows["facts"][row]}


def test_what_is_named_is_counted_where_it_is_held_and_not_coming() -> None:
    held = FactProbes({}, {kind: Knows(kind) for kind in KINDS})  # type: ignore[misc]
    first = {kind: next(iter(values)) for kind, values in KINDS.items()}
    facts = [{"kind": kind, "value": value, "stated_at": 5} for kind, value in list(first.items())[:4]]
    facts[3] = facts[3] | {"value": list(KINDS[facts[3]["kind"]])[1]}  # stated, and not what the probe reads
    coming = vocabulary()[facts[0]["value"]]
    rows = {"position": [SEAL], "facts": [facts], "continuation_ids": [[coming]], "site": [torch.zeros(4)]}
    judge = HeldJudge(held, "site")
    synonym = wordings(facts[1]["kind"], facts[1]["value"])[-1]
    wrong = list(KINDS[facts[2]["kind"]])[3]
    found = judge.judge([f"the {synonym} and {wrong} and {facts[3]['value']} and {facts[0]['value']}"], rows)
    recall, precision = (tuple(float(side) for side in found[name]) for name in (RECALL, PRECISION))
    assert recall == (1, 2), "two are held and not coming, one of them is named"
    assert precision == (1, 3), "what comes next counts on neither side"
    assert set(judge.definitions) == {RECALL, PRECISION} and judge.subsets(rows) == {}
    assert judge.judge(["nothing"], rows)[PRECISION][1] == pytest.approx(0)
