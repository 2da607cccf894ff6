"""One word of a text changed: what each slot carries.

Shapes: B rows, T tokens of a text.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..parts.generation import Words
from ..starting.warm_start import packed

REPLACED, DROPPED, EXCHANGED = 8, 3, 2  # of so many first slots


def one_word_changed(words: Words, seed: int, pad_id: int) -> dict[str, Words]:
    """The same texts with one word replaced, dropped, or exchanged with the next one.

    - `slot_i`: word i is replaced by one that stands in that slot of another row's text, and differs.
    - `slot_i_dropped`: word i is left out.
    - `slots_i_j_exchanged`: words i and j change places.

    Args:
        words: the texts.
        seed: of the choice of other rows; give each batch its own.
        pad_id: what texts are padded with.
    """
    length = words.ids.shape[1]
    found = {f"slot_{i + 1}": replaced(words, i, seed * 64 + i) for i in range(min(length, REPLACED))}
    for i in range(min(length, DROPPED)):
        keep = words.mask.bool().clone()
        keep[:, i] = False
        found[f"slot_{i + 1}_dropped"] = packed(words.ids, keep, pad_id)
    for i in range(min(length - 1, EXCHANGED)):
        found[f"slots_{i + 1}_{i + 2}_exchanged"] = exchanged(words, i)
    return found


def replaced(words: Words, slot: int, seed: int) -> Words:
    """Word `slot` of each text from another text; a row for which there is no other word stays as it is."""
    own = words.ids[:, slot]
    there = words.mask[:, slot].bool()
    chance = torch.rand(len(words), len(words), generator=torch.Generator().manual_seed(seed)).to(own.device)
    chance = chance.masked_fill((own.unsqueeze(1) == own.unsqueeze(0)) | ~there.unsqueeze(0), -1.0)
    best, other = chance.max(1)
    ids = words.ids.clone()
    ids[:, slot] = torch.where(there & (best >= 0), own[other], own)
    return Words(ids, words.mask)


def exchanged(words: Words, slot: int) -> Words:
    """Words `slot` and `slot + 1` in each other's place, in texts that have both."""
    both = words.mask[:, slot + 1].bool()
    first, second = words.ids[:, slot], words.ids[:, slot + 1]
    ids = words.ids.clone()
    ids[:, slot], ids[:, slot + 1] = torch.where(both, second, first), torch.where(both, first, second)
    return Words(ids, words.mask)


def changed_in_front(before: Sequence[str], after: Sequence[str], words: int = 2) -> Tensor:
    """Whether one of the first words of each text is another one, `[B]`."""
    pairs = zip(before, after, strict=True)
    return torch.tensor([one.split()[:words] != other.split()[:words] for one, other in pairs])
