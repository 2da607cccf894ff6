"""`BeyondJudge`: which of the fact words in an explanation could be had without looking into the activation.

A fact word is P's own token, or visible in the last words before P, or the next token, or none of these. Only what is
none of these says something that nobody could read off, and there the words are true or made up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from consistency_lens.demo.reword import is_true, mentions
from consistency_lens.demo.stories import WINDOW, Fact, Story
from consistency_lens.demo.tokenizer import vocabulary
from consistency_lens.demo.words import FACT_WORDS

AT_P, VISIBLE, NEXT, BEYOND = "at_p", "visible", "next", "beyond"
PLACES = {
    AT_P: "that are P's own token",
    VISIBLE: f"that stand in the last {WINDOW} words up to P, P's own left out",
    NEXT: "that are the next token of the text",
    BEYOND: f"that are neither the next token nor visible in the last {WINDOW} words",
}


class BeyondJudge:
    """Counts the fact words of explanations by where else they stand, any word for the same value counting."""

    name = "beyond"
    columns: Sequence[str] = ("facts", "input_ids", "attention_mask", "continuation_ids")
    definitions: Mapping[str, str] = {
        **{f"words_{place}": f"share of the fact words {which}" for place, which in PLACES.items()},
        **{f"precision_{place}": f"share that is true of the fact words {which}" for place, which in PLACES.items()},
    }

    def __init__(self) -> None:
        self.words = {i: word for word, i in vocabulary().items()}

    def judge(
        self, explanations: Sequence[str], rows: Mapping[str, Sequence[Any]]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        said = {place: torch.zeros(len(explanations), dtype=torch.float64) for place in PLACES}
        true = {place: torch.zeros(len(explanations), dtype=torch.float64) for place in PLACES}
        columns = (rows["facts"], rows["input_ids"], rows["attention_mask"], rows["continuation_ids"])
        for row, (text, facts, ids, mask, following) in enumerate(zip(explanations, *columns, strict=True)):
            story = Story(0, "", tuple(Fact(**fact) for fact in facts), ())
            read = [self._fact(i) for i, kept in zip(_ints(ids), _ints(mask), strict=True) if kept][-WINDOW:]
            coming = self._fact(_ints(following)[0]) if len(following) else None
            for mention in mentions(text):
                fact = (mention.kind, mention.value)
                place = AT_P if fact == read[-1] else VISIBLE if fact in read else NEXT if fact == coming else BEYOND
                said[place][row] += 1
                true[place][row] += is_true(story, mention)
        every = torch.stack(list(said.values())).sum(0)
        return {
            **{f"words_{place}": (count, every) for place, count in said.items()},
            **{f"precision_{place}": (true[place], count) for place, count in said.items()},
        }

    def subsets(self, rows: Mapping[str, Sequence[Any]]) -> dict[str, Tensor]:
        return {}

    def _fact(self, token: int) -> tuple[str, str] | None:
        return FACT_WORDS.get(self.words.get(token, ""))


def _ints(values: Any) -> list[int]:
    return values.tolist() if isinstance(values, Tensor) else list(values)
