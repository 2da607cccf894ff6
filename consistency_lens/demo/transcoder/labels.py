"""Stories as batches, and which fact each of their tokens says or is about to need.

Shapes: B stories, S columns, N tokens of all stories but the first of each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from consistency_lens.demo.stories import Story
from consistency_lens.demo.words import FACT_WORDS, KINDS
from consistency_lens.frozen import FrozenLM
from consistency_lens.sparse.training.data import collator_of

FACTS: tuple[tuple[str, str], ...] = tuple((kind, value) for kind, values in KINDS.items() for value in values)
NUMBER = {fact: number for number, fact in enumerate(FACTS)}
NONE = -1


@dataclass(frozen=True)
class Labels:
    """Number of a fact for each token, `[N]`, or `NONE`.

    Args:
        said: the fact that the token says, in any wording.
        needed: the fact that the next token says, where nothing near gives it away.
        document: which of the stories the token is of.
    """

    said: Tensor
    needed: Tensor
    document: Tensor


def labels_of(told: Sequence[Story]) -> Labels:
    """The tokens of all stories but the first of each, story after story."""
    said, needed, document = [], [], []
    for number, story in enumerate(told):
        words = story.words
        own = [NUMBER[FACT_WORDS[word]] if word in FACT_WORDS else NONE for word in words]
        needs = [NONE] * len(words)
        for spot in story.fact_positions:
            fact = story.facts[spot.fact]
            needs[spot.position - 1] = NUMBER[fact.kind, fact.value]
        said += own
        needed += needs
        document += [number] * len(words)
    return Labels(torch.tensor(said), torch.tensor(needed), torch.tensor(document))


def batch_of(frozen: FrozenLM, texts: Sequence[str]) -> dict[str, Tensor]:
    """Padded on the left."""
    rows = [
        {"doc_id": torch.tensor(i), "input_ids": torch.tensor(frozen.tokenizer(text)["input_ids"])}
        for i, text in enumerate(texts)
    ]
    return {name: tensor.to(frozen.device) for name, tensor in collator_of(frozen).padded(rows).items()}


def batches_of(
    frozen: FrozenLM, told: Sequence[Story], size: int = 32
) -> Iterator[tuple[Sequence[Story], dict[str, Tensor]]]:
    for first in range(0, len(told), size):
        part = told[first : first + size]
        yield part, batch_of(frozen, [story.text for story in part])


def column_of(batch: dict[str, Tensor], row: int, position: int) -> int:
    """Where a token of a story stands in a batch that is padded on the left."""
    return int(batch["input_ids"].shape[1] - batch["attention_mask"][row].sum()) + position
