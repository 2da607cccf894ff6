"""The suffix test: told a text, does the model find what comes next among ten passages of the *same* document?

A topic tells documents apart and not places in one of them, so that a label of the topic is at chance here. The model
picks the passage that the text makes likelier than it is behind nothing by most.

Shapes: B rows, T tokens of a text, K tokens of a passage, C choices.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from ...frozen import FrozenLM, Prefix
from ..controls import nll_after
from ..parts.generation import Words

CHOICES, LENGTH, ROWS, AT_ONCE = 10, 8, 128, 8
TIE = 1e-4  # nats per token that rounding may make of nothing
SUFFIX, TOPIC = "suffix", "suffix_topic"
DEFINED = {
    SUFFIX: f"how often M, told the text alone, finds the next {LENGTH} tokens among {CHOICES} passages of the same "
    "document: the one that the text makes likelier by most; chance is .1"
}
OF_TOPIC = {TOPIC: "suffix, told the word alone that sets the document apart most from the others"}


class Documents:
    """The held-out documents, as far as their rows show them.

    Args:
        rows: of the split, with `input_ids`, `continuation_ids` and `doc_id`.
        tokenizer: of the model.
    """

    def __init__(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> None:
        self.texts: dict[int, list[int]] = {}
        self.tokenizer = tokenizer
        columns = [name for name in ("input_ids", "continuation_ids") if name in rows.column_names]
        plain = rows.with_format("numpy", columns=[*columns, "doc_id"])
        for part in plain.iter(batch_size=1024):
            for document, *ids in zip(part["doc_id"], *(part[name] for name in columns), strict=True):
                whole = [token for each in ids for token in np.asarray(each).tolist()]
                if len(whole) > len(self.texts.get(int(document), ())):
                    self.texts[int(document)] = whole
        self.topics = self._topics()

    def passages(self, document: int, context: Sequence[int], seed: int) -> Tensor | None:
        """`[C, K]`, the first of them what comes behind a context; None where the document holds too few others.

        The others begin anywhere, but for those that share a token's place with the true one, and differ from it.
        """
        text, behind = self.texts[document], len(context)
        if text[:behind] != list(context):
            return None  # rows of somebody's own, whose contexts begin in the middle of a document
        true = text[behind : behind + LENGTH]
        others: list[list[int]] = []
        starts = [start for start in range(len(text) - LENGTH + 1) if abs(start - behind) >= LENGTH]
        for start in np.random.default_rng((seed, document, behind)).permutation(starts).tolist():
            found = text[start : start + LENGTH]
            if found != true and found not in others:
                others.append(found)
            if len(others) == CHOICES - 1:
                return torch.tensor([true, *others]) if len(true) == LENGTH else None
        return None

    def topic(self, document: int) -> str:
        """The word of the document that is frequent in it and rare in the others; the first of equals."""
        return self.topics[document]

    def _topics(self) -> dict[int, str]:
        decoded = {name: self.tokenizer.decode(ids, skip_special_tokens=True) for name, ids in self.texts.items()}
        words = {name: Counter(re.findall(r"[^\W_]+", text.lower())) for name, text in decoded.items()}
        documents = Counter(word for found in words.values() for word in found)
        weigh = {word: math.log(len(words) / count) for word, count in documents.items()}
        return {
            name: max(found, key=lambda word: (found[word] * weigh[word], word), default="")
            for name, found in words.items()
        }


@torch.no_grad()
def picked(
    texts: Mapping[str, Words], passages: Sequence[Tensor | None], frozen: FrozenLM, start_id: int
) -> dict[str, Tensor]:
    """Code -> whether the true passage comes first, `[B]`; its share of the first place where others tie with it, NaN
    in rows without passages.

    Args:
        texts: by code, what the model is told.
        passages: of each row, the true one first.
        frozen: the model.
        start_id: the token that a text begins with.
    """
    found = {code: torch.full((len(passages),), torch.nan) for code in texts}
    tested = [row for row, each in enumerate(passages) if each is not None]
    for first in range(0, len(tested), AT_ONCE):
        rows = torch.tensor(tested[first : first + AT_ONCE])
        choices = torch.stack([each for row in rows.tolist() if (each := passages[row]) is not None])
        flat = choices.flatten(0, 1).to(frozen.device)
        asked = Words(flat, torch.ones_like(flat))
        nothing = Words(flat[:, :0].new_zeros(len(rows), 1), flat.new_zeros(len(rows), 1))
        alone = _nll(nothing, asked, frozen, start_id)
        for code, words in texts.items():
            gain = (alone - _nll(words.take(rows.to(words.ids.device)), asked, frozen, start_id)).view(len(rows), -1)
            best = gain >= gain.max(1, keepdim=True).values - TIE
            found[code][rows] = (best[:, 0] / best.sum(1)).cpu()
    return found


def _nll(told: Words, asked: Words, frozen: FrozenLM, start_id: int) -> Tensor:
    """Nats per token of passages behind the start token and a text, `[rows x C]`."""
    return nll_after(_told(told, frozen, start_id).repeat(CHOICES), asked).float()


def _told(words: Words, frozen: FrozenLM, start_id: int) -> Prefix:
    """The start token and each text, padded on the left."""
    width = words.ids.shape[1]
    columns = torch.arange(width, device=words.ids.device) + words.lengths.unsqueeze(1) - width
    ids = words.ids.gather(1, columns.clamp_min(0))
    # The start token stands right before the text, or last where there is none.
    ids = F.pad(ids, (1, 0))
    at = (width - words.lengths).unsqueeze(1)
    ids.scatter_(1, at, start_id)
    mask = (torch.arange(width + 1, device=ids.device) >= at).long()
    return frozen.prefix({"input_ids": ids, "attention_mask": mask.cpu()})
