"""`FactJudge`: in the demo world the truth is known, so an explanation can be right or wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from consistency_lens.demo.judging.probes import DEFINITIONS, FactProbes
from consistency_lens.demo.reword import is_true, mentions, reword
from consistency_lens.demo.stories import Fact, Story
from consistency_lens.demo.words import KINDS

Ratio = tuple[Tensor, Tensor]
FACT_COLUMNS = ("facts", "fact_positions")


class FactJudge:
    """Do explanations name the fact that the model is about to use, and is what they name true?

    A row is a fact position if the token after P says a fact that nothing near P gives away.

    Args:
        held: probes that say what the activation holds; without them only words are judged.
        site: that they read.
    """

    name = "facts"
    _of_words: Mapping[str, str] = {
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

    def __init__(self, held: FactProbes | None = None, site: str = "") -> None:
        self.held, self.site = held, site
        self.columns = FACT_COLUMNS if held is None else (*FACT_COLUMNS, site)
        by_kind = ("fact_recall", "fact_precision", *(DEFINITIONS if held else ()))
        self.definitions = {
            **self._of_words,
            **(DEFINITIONS if held else {}),
            **{f"{name}/{kind}": f"{name} of this kind" for name in by_kind for kind in KINDS},
        }

    def judge(self, explanations: Sequence[str], rows: Mapping[str, Sequence[Any]]) -> dict[str, Ratio]:
        """Number -> numerator and denominator of each row."""
        counts = [self._count(*row) for row in zip(explanations, *self._truth(rows), strict=True)]
        table = torch.tensor(counts, dtype=torch.float64).reshape(-1, 6)
        at_fact, named, true, said, needed_true, needed_said = table.unbind(1)
        held = {} if self.held is None else self.held.read(torch.as_tensor(rows[self.site]).float().cpu(), rows)
        return {
            "fact_recall": (named, at_fact),
            "fact_precision": (true, said),
            "fact_precision_at_facts": (true * at_fact, said * at_fact),
            "needed_precision": (needed_true, needed_said),
            "fact_words": (said, torch.ones_like(said)),
            **held,
            **self._by_kind(explanations, rows),
        }

    def subsets(self, rows: Mapping[str, Sequence[Any]]) -> dict[str, Tensor]:
        """The rows at which a fact is needed."""
        return {
            "fact_positions": torch.tensor([needed is not None for _, needed in zip(*self._truth(rows), strict=True)])
        }

    def _by_kind(self, explanations: Sequence[str], rows: Mapping[str, Sequence[Any]]) -> dict[str, Ratio]:
        """Recall and precision of each kind of fact."""
        shape = (len(KINDS), len(explanations))
        counts = {name: torch.zeros(shape, dtype=torch.float64) for name in ("named", "needed", "true", "said")}
        number = {kind: i for i, kind in enumerate(KINDS)}
        for row, (text, story, needed) in enumerate(zip(explanations, *self._truth(rows), strict=True)):
            found = mentions(text)
            for mention in found:
                counts["said"][number[mention.kind], row] += 1
                counts["true"][number[mention.kind], row] += is_true(story, mention)
            if needed:
                counts["needed"][number[needed.kind], row] = 1
                counts["named"][number[needed.kind], row] = any(
                    (mention.kind, mention.value) == (needed.kind, needed.value) for mention in found
                )
        recall = {f"fact_recall/{kind}": (counts["named"][i], counts["needed"][i]) for kind, i in number.items()}
        precision = {f"fact_precision/{kind}": (counts["true"][i], counts["said"][i]) for kind, i in number.items()}
        return recall | precision

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
