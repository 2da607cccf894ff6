"""From documents to blocks of tokens: which of them lie together, and where each token comes from.

Shapes: n kept tokens of a block, L sites, d hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ...errors import BadInput
from ..corpus import Document
from ..documents import DocumentRules, Tokens, tokenised


@dataclass(frozen=True)
class BlockRules(DocumentRules):
    """Everything that decides which tokens there are, and which of them lie together; position 0 is left out, unless
    `min_position` is 0.

    Args:
        tokens_per_block: a block takes whole documents, up to so many kept tokens; one that has more is a block.
    """

    tokens_per_block: int = 4096

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tokens_per_block < 1:
            raise BadInput("tokens_per_block", self.tokens_per_block, "Use 1 or more; some thousands are usual.")


class Labels(NamedTuple):
    """Where each kept token of some documents comes from; arrays `[n]`, in document order."""

    doc_id: np.ndarray
    position: np.ndarray
    input_ids: np.ndarray


def prepare(
    documents: Sequence[Document], tokenizer: PreTrainedTokenizerBase, rules: BlockRules
) -> dict[str, list[Tokens]]:
    """Tokenise and split; documents of which no token is kept are left out."""
    found = tokenised(documents, tokenizer, rules)
    return {split: [Tokens(document.doc_id, ids) for document, ids in own] for split, own in found.items()}


def packed(documents: Sequence[Tokens], rules: BlockRules) -> list[slice]:
    """Which of these consecutive documents, all of one chunk and split, make up each block."""
    blocks, start, filled = [], 0, 0
    for number, document in enumerate(documents):
        kept = document.length - rules.min_position
        if filled and filled + kept > rules.tokens_per_block:
            blocks.append(slice(start, number))
            start, filled = number, 0
        filled += kept
    return [*blocks, slice(start, len(documents))] if len(documents) else blocks


def labels_of(documents: Sequence[Tokens], min_position: int) -> Labels:
    """The kept tokens of these documents, one after another."""
    kept = [len(document.ids) - min_position for document in documents]
    return Labels(
        np.repeat(np.array([document.doc_id for document in documents], np.int64), kept),
        np.concatenate([np.arange(min_position, len(document.ids)) for document in documents]),
        np.concatenate([document.ids[min_position:] for document in documents]).astype(np.int64),
    )


class BlockSource:
    """The blocks of one split. A subclass sets these, and gives `documents` and `fill`:

    `sites`, names in the order of the second axis; `hidden_size`; `sizes`, kept tokens of each block; `dtype`, of
    activations unless another one is asked for, always of floats; `device`, where they come out; `min_position`, the
    first one that is kept.
    """

    sites: Sequence[str]
    hidden_size: int
    sizes: np.ndarray
    dtype: torch.dtype
    device: torch.device
    min_position: int
    stored: torch.dtype | None = None  # int8, where a window may be held as it is stored

    def documents(self, number: int) -> list[Tokens]:
        """The documents of a block."""
        raise NotImplementedError

    def fill(self, number: int, into: Tensor) -> None:
        """Write a block's activations `[n, L, d]` into a tensor of any dtype of floats, or of the stored one."""
        raise NotImplementedError

    def scale(self, number: int) -> Tensor:
        """The size of a step of int8 in each channel of a block, `[L, d]` float32."""
        raise NotImplementedError

    def labels(self, number: int) -> Labels:
        return labels_of(self.documents(number), self.min_position)

    def read(self, number: int) -> Tensor:
        """A block by itself."""
        shape = (int(self.sizes[number]), len(self.sites), self.hidden_size)
        values = torch.empty(shape, dtype=self.dtype, device=self.device)
        self.fill(number, values)
        return values
