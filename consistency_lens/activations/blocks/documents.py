"""From documents to blocks of tokens: each is a function of the documents of its chunk and the rules alone.

That is why blocks do not depend on batch size, number of processes or interruptions, and why a stream has the blocks
that an extraction stores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from ...errors import BadInput
from ..contexts.rows import SPLITS, require_fractions, split_of
from ..corpus import Document


@dataclass(frozen=True)
class BlockRules:
    """Everything that decides which tokens there are, and which of them lie together.

    Args:
        min_position: the first position that is kept; with 1, position 0 is left out.
        max_length: documents are cut after so many tokens.
        tokens_per_block: a block takes whole documents, up to so many kept tokens; one that has more is a block.
        validation_fraction: share of documents held out for choosing.
        test_fraction: share of documents held out for reporting.
        seed: of the split.
    """

    min_position: int = 1
    max_length: int = 512
    tokens_per_block: int = 4096
    validation_fraction: float = 0.05
    test_fraction: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in [("min_position", self.min_position), ("seed", self.seed)]:
            if value < 0:
                raise BadInput(name, value, "Use 0 or more.")
        if self.tokens_per_block < 1:
            raise BadInput("tokens_per_block", self.tokens_per_block, "Use 1 or more; some thousands are usual.")
        if self.max_length <= self.min_position:
            fix = f"Use --max_length {self.min_position + 1} or more"
            fix += f", or a lower --min_position than {self.min_position}." if self.min_position else "."
            raise BadInput(
                "max_length", self.max_length, fix, why="documents are cut before the first token that is kept"
            )
        require_fractions(self)


class Tokens(NamedTuple):
    """A document as tokens, those that are not kept included: the model needs them, and so does an evaluation."""

    doc_id: int
    ids: np.ndarray  # int32


class Labels(NamedTuple):
    """Where each kept token of some documents comes from; arrays `[n]`, in document order."""

    doc_id: np.ndarray
    position: np.ndarray
    input_ids: np.ndarray


def prepare(
    documents: Sequence[Document], tokenizer: PreTrainedTokenizerBase, rules: BlockRules
) -> dict[str, list[Tokens]]:
    """Tokenise and split; documents of which no token is kept are left out."""
    texts = [document.text for document in documents]
    encoded = tokenizer(texts, truncation=True, max_length=rules.max_length)["input_ids"] if texts else []
    prepared: dict[str, list[Tokens]] = {split: [] for split in SPLITS}
    for document, ids in zip(documents, encoded, strict=True):
        if len(ids) > rules.min_position:
            prepared[split_of(document.text, rules)].append(Tokens(document.doc_id, np.asarray(ids, np.int32)))
    return prepared


def packed(lengths: Sequence[int], rules: BlockRules) -> list[slice]:
    """Which consecutive documents of these lengths, all of one chunk and split, make up each block."""
    blocks, start, filled = [], 0, 0
    for number, length in enumerate(lengths):
        kept = length - rules.min_position
        if filled and filled + kept > rules.tokens_per_block:
            blocks.append(slice(start, number))
            start, filled = number, 0
        filled += kept
    return [*blocks, slice(start, len(lengths))] if len(lengths) else blocks


def labels_of(documents: Sequence[Tokens], min_position: int) -> Labels:
    """The kept tokens of these documents, one after another."""
    kept = [len(document.ids) - min_position for document in documents]
    return Labels(
        np.repeat(np.array([document.doc_id for document in documents], np.int64), kept),
        np.concatenate([np.arange(min_position, len(document.ids)) for document in documents]),
        np.concatenate([document.ids[min_position:] for document in documents]).astype(np.int64),
    )
