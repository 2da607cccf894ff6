"""`FactJudge`: in the demo world the truth is known, so an explanation can be right or wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from consistency_lens.demo.reword import is_true, mentions, reword
from consistency_lens.demo.stories import Fact, Story

Ratio = tuple[Tensor, Tensor]


class FactJudge:
    """Do explanations name the fact that the model is about to use, and is what they name true?

    A row is a fact position if the token after P says a fact that nothing near P gives away.
    """

    name = "facts"
    columns = ("facts", "fact_positions")
    definitions: Mapping[str, str] = {
        "fact_recall": "at fact positions, share of rows whose text names the fact that M is about to use; any word "
        "for it counts",
        "fact_precision": "share of the fact words in the text that are true of the story, over all rows: 1 - "
        "confabulation",
        "fact_precision_at_facts": "fact_precision at fact positions alone",
        "needed_precision": "at fact positions, share of the text's words of the needed kind (a place, where a place "
        "comes next) that are the story's own",
        "fact_words": "fact words per text",
        "fact_positions": "the next token is a fact that nothing near P gives away",
    }

    def judge(self, explanations: Sequence[str], rows: Mapping[str, Sequence[Any]]) -> dict[str, Ratio]:
        """Number -> numerator and denominator of each row."""
        counts = [self._count(*row) for row in zip(explanations, *self._truth(rows), strict=True)]
        table = torch.tensor(counts, dtype=torch.float64).reshape(-1, 6)
        at_fact, named, true, said, needed_true, needed_said = table.unbind(1)
        return {
            "fact_recall": (named, at_fact),
            "fact_precision": (true, said),
            "fact_precision_at_facts": (true * at_fact, said * at_fact),
            "needed_precision": (needed_true, needed_said),
            "fact_words": (said, torch.ones_like(said)),
        }

    def subsets(self, rows: Mapping[str, Sequence[Any]]) -> dict[str, Tensor]:
        """The rows at which a fact is needed."""
        return {
            "fact_positions": torch.tensor([needed is not None for _, needed in zip(*self._truth(rows), strict=True)])
        }

    @staticmethod
    def _truth(rows: Mapping[str, Sequence[Any]]) -> tuple[list[Story], list[Fact | None]]:
        """The story of each row as far as its facts go, and the fact that comes after P, if one does."""
        stories, needed = [], []
        for position, facts, spots in zip(rows["position"], rows["facts"], rows["fact_positions"], strict=True):
            story = Story(0, "", tuple(Fact(**fact) for fact in facts), ())
            stories.append(story)
            needed.append(next((story.facts[spot["fact"]] for spot in spots if spot["position"] == position), None))
        return stories, needed

    @staticmethod
    def _count(text: str, story: Story, needed: Fact | None) -> tuple[float, ...]:
        found = mentions(text)
        truths = [is_true(story, mention) for mention in found]
        of_kind = [
            (mention.value == needed.value) if needed else False
            for mention in found
            if needed and mention.kind == needed.kind
        ]
        return (float(needed is not None), float(any(of_kind)), sum(truths), len(found), sum(of_kind), len(of_kind))


def reword_all(explanations: Sequence[str], seed: int) -> list[str]:
    """The same explanations in other words and another order, as this world says them."""
    return [reword(text, seed) for text in explanations]
