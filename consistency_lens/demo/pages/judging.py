"""What the world knows of explanations of a page that has been turned: facts that are held and not needed soon.

Shapes: B rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from consistency_lens.demo.judging.probes import FactProbes
from consistency_lens.demo.judging.questions import FactQuestions
from consistency_lens.demo.pages.writing import SEAL
from consistency_lens.demo.reword import mentions
from consistency_lens.demo.tokenizer import vocabulary
from consistency_lens.demo.words import FACT_WORDS
from consistency_lens.text.sceptic.asked import Question

RECALL, PRECISION = "held_recall", "held_precision"


class PageQuestions(FactQuestions):
    """Asks at the seals of pages alone: elsewhere the question itself could look at the page."""

    opening: Sequence[str] = ()  # the page is over, and so is its last sentence

    def questions(self, rows: Mapping[str, Sequence[Any]], seed: int) -> list[Question | None]:
        found = super().questions(rows, seed)
        return [q if int(position) == SEAL else None for q, position in zip(found, rows["position"], strict=True)]


class HeldJudge:
    """Do explanations name facts that the activation holds, and that what comes next does not?

    Args:
        held: probes that say what the activation holds.
        site: that they read.
    """

    name = "held"
    definitions: Mapping[str, str] = {
        RECALL: "of the facts that a linear probe reads from A and that the stored continuation does not say, the "
        "share that the text names; any word counts",
        PRECISION: "of the fact words in the text that the continuation does not say, the share that the "
        "story states and the probe reads from A",
    }

    def __init__(self, held: FactProbes, site: str) -> None:
        self.held, self.site = held, site
        self.columns: Sequence[str] = ("facts", "continuation_ids", site)
        self.words = {i: word for word, i in vocabulary().items()}

    def judge(
        self, explanations: Sequence[str], rows: Mapping[str, Sequence[Any]]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        named, there, true, said = torch.zeros(4, len(explanations), dtype=torch.float64)
        columns = (rows["position"], rows["facts"], rows["continuation_ids"], rows[self.site])
        for row, (text, position, facts, following, vector) in enumerate(zip(explanations, *columns, strict=True)):
            near = {FACT_WORDS.get(self.words.get(int(i), "")) for i in following}
            wanted = self._held(torch.as_tensor(vector), position, facts) - near
            found = {(mention.kind, mention.value) for mention in mentions(text)} - near
            named[row], there[row] = len(found & wanted), len(wanted)
            true[row], said[row] = len(found & wanted), len(found)
        return {RECALL: (named, there), PRECISION: (true, said)}

    def subsets(self, rows: Mapping[str, Sequence[Any]]) -> dict[str, Tensor]:
        return {}

    def _held(self, vector: Tensor, position: int, facts: Sequence[Mapping[str, Any]]) -> set[tuple[str, str] | None]:
        """The facts stated so far that the probes read."""
        found: set[tuple[str, str] | None] = set()
        for fact in facts:
            probe = self.held.anywhere.get(fact["kind"])
            if probe is None or fact["stated_at"] > position:
                continue
            if probe.predict(vector.float().cpu().unsqueeze(0))[0] == fact["value"]:
                found.add((fact["kind"], fact["value"]))
        return found
