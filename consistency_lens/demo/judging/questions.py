"""`FactQuestions`: asks for a fact that the activation holds and that nothing near P needs."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from consistency_lens.demo.grammar import GROUPS, NEEDED
from consistency_lens.demo.judging.probes import FactProbes
from consistency_lens.demo.tokenizer import vocabulary
from consistency_lens.demo.words import FACT_WORDS, LEXICON
from consistency_lens.text.sceptic.questions import Question


class FactQuestions:
    """A sentence of the world up to the word that says a fact stated before P.

    Args:
        held: probes on the activation; only facts that they read are asked for. None: all facts that were stated.
        site: that they read.
    """

    opening: Sequence[str] = (".",)  # wherever P stands, the sentence before is over

    def __init__(self, held: FactProbes | None = None, site: str = "") -> None:
        self.held, self.site = held, site
        self.columns: Sequence[str] = ("facts", "continuation_ids", *([site] if held else []))
        self.words = {i: word for word, i in vocabulary().items()}

    def questions(self, rows: Mapping[str, Sequence[Any]], seed: int) -> list[Question | None]:
        found: list[Question | None] = []
        columns = (rows["position"], rows["facts"], rows["continuation_ids"])
        for row, (position, facts, following) in enumerate(zip(*columns, strict=True)):
            near = {FACT_WORDS.get(self.words.get(int(i), "")) for i in following}
            stated = [f for f in facts if f["stated_at"] <= position and (f["kind"], f["value"]) not in near]
            stated = [fact for fact in stated if self._is_held(rows, row, fact)]
            rng = random.Random(f"asking/{seed}/{row}")
            found.append(question_for(rng.choice(stated), rng, self.opening) if stated else None)
        return found

    def _is_held(self, rows: Mapping[str, Sequence[Any]], row: int, fact: Mapping[str, Any]) -> bool:
        if self.held is None:
            return True
        probe = self.held.anywhere.get(fact["kind"])
        vector = torch.as_tensor(rows[self.site][row]).float().cpu()
        return probe is not None and probe.predict(vector.unsqueeze(0))[0] == fact["value"]


def question_for(fact: Mapping[str, Any], rng: random.Random, opening: Sequence[str] = (".",)) -> Question:
    """A new sentence that needs the fact, without its last words. What opens it ends the sentence that P stands in."""
    group = next(group for group, kinds in GROUPS.items() if fact["kind"] in kinds)
    before = rng.choice(NEEDED[group]).partition(f"{{{fact['kind']}}}")[0]
    words = [rng.choice(LEXICON[word[1:-1]]) if word.startswith("[") else word for word in before.split()]
    return Question(" ".join([*opening, *words]), fact["value"])
