"""Stories up to where a fact is needed, and the same stories with another value of that fact.

Shapes: B cases, S columns; the last column of each row is the one whose next token says the fact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from consistency_lens.demo.stories import Story
from consistency_lens.demo.transcoder.labels import batch_of, column_of
from consistency_lens.demo.words import KINDS, wordings
from consistency_lens.frozen import FrozenLM


@dataclass(frozen=True)
class Case:
    """The first need of a fact.

    Args:
        story: number of the story.
        kind, value: of the fact.
        stated: position of the token that states it.
        words: of the story up to the need.
    """

    story: int
    kind: str
    value: str
    stated: int
    words: tuple[str, ...]

    @property
    def by_synonym(self) -> bool:
        """Whether it was stated in another word than the one that is needed."""
        return self.words[self.stated - 1] != self.value

    @property
    def other(self) -> str:
        """Another value of the same kind: the next one in the world's list."""
        values = list(KINDS[self.kind])
        return values[(values.index(self.value) + 1) % len(values)]

    @property
    def text(self) -> str:
        return " ".join(self.words)

    @property
    def counterfactual(self) -> str:
        """The same story of the other value."""
        own = wordings(self.kind, self.value)
        return " ".join(self.other if word in own else word for word in self.words)


def cases_of(told: Sequence[Story], most: int | None = None) -> list[Case]:
    """The first need of each fact of each story, in their order."""
    found = []
    for number, story in enumerate(told):
        seen = set()
        for spot in sorted(story.fact_positions, key=lambda spot: spot.position):
            fact = story.facts[spot.fact]
            if spot.fact not in seen:
                words = tuple(story.words[: spot.position])
                found.append(Case(number, fact.kind, fact.value, fact.stated_at, words))
            seen.add(spot.fact)
    return found[:most]


@dataclass(frozen=True)
class CaseBatch:
    """Some cases as the model reads them.

    Args:
        cases: the cases.
        clean, other: the stories as they are, and those of the other value; columns are the same.
        stated: column of the statement, `[B]`.
        answer, rival: ids of the value and of the other one, `[B]`.
    """

    cases: Sequence[Case]
    clean: dict[str, Tensor]
    other: dict[str, Tensor]
    stated: Tensor
    answer: Tensor
    rival: Tensor

    def margin(self, logits: Tensor) -> Tensor:
        """By how much the answer is ahead of the other value at the last column, `[B]`."""
        last = logits[:, -1].float()
        return (last.gather(1, self.answer[:, None]) - last.gather(1, self.rival[:, None]))[:, 0]


def case_batches(frozen: FrozenLM, cases: Sequence[Case], size: int = 32) -> Iterator[CaseBatch]:
    for first in range(0, len(cases), size):
        part = cases[first : first + size]
        clean, other = (
            batch_of(frozen, texts) for texts in ([case.text for case in part], [case.counterfactual for case in part])
        )
        columns = [column_of(clean, row, case.stated) for row, case in enumerate(part)]
        ids = [[_id(frozen, word) for word in (case.value, case.other)] for case in part]
        answer, rival = torch.tensor(ids, device=frozen.device).T
        yield CaseBatch(part, clean, other, torch.tensor(columns, device=frozen.device), answer, rival)


def _id(frozen: FrozenLM, word: str) -> int:
    return int(frozen.tokenizer(word, add_special_tokens=False)["input_ids"][0])
