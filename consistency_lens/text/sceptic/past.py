"""Which way a text looks: whether it is the model's own continuation, and how much of it is about the past alone.

Shapes: B rows, T tokens of a text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from ..parts.generation import Words

IS_CONTINUATION, ABOUT_PAST = "is_continuation", "about_past"
AHEAD, LETTERS = 8, 4
DEFINED = {
    IS_CONTINUATION: "share of explanations that are what M itself says next, greedily, P's token aside",
    ABOUT_PAST: f"share of the words of {LETTERS} letters or more in an explanation that stand in the context and not "
    f"in the next {AHEAD} tokens",
}


def is_continuation(words: Words, continuation: Words, last: Tensor) -> Tensor:
    """Whether each text is the beginning of what the model says, `[B]`; a text of P's token alone is not.

    Args:
        words: the texts.
        continuation: P's token and then what the model says.
        last: `[B]`, the token at P.
    """
    found = []
    for text, said, p in zip(_lists(words), _lists(continuation), last.tolist(), strict=True):
        own, other = (each[1:] if each[:1] == [p] else each for each in (text, said))
        found.append(float(bool(own) and own == other[: len(own)]))
    return torch.tensor(found)


def about_past(texts: Sequence[str], contexts: Sequence[str], following: Sequence[str]) -> tuple[Tensor, Tensor]:
    """How many words of each text are about the past alone, and how many there are, `[B]` each."""
    pairs = []
    for text, context, next_ in zip(texts, contexts, following, strict=True):
        words, before, behind = (re.findall(r"[^\W\d_]+", each.lower()) for each in (text, context, next_))
        long = [word for word in words if len(word) >= LETTERS]
        pairs.append((sum(word in before and word not in behind for word in long), len(long)))
    above, below = torch.tensor(pairs, dtype=torch.float32).T
    return above, below


def _lists(words: Words) -> list[list[int]]:
    return [ids[:n] for ids, n in zip(words.ids.tolist(), words.lengths.tolist(), strict=True)]
