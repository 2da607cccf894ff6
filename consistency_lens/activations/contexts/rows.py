"""From documents to rows: tokens, split and positions, each a function of the document and the seed alone.

That is why rows do not depend on batch size, number of processes or interruptions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Protocol

import numpy as np
from transformers import PreTrainedTokenizerBase

from ...errors import BadInput
from ..corpus import Document

SPLITS = ("train", "validation", "test")


class SplitRules(Protocol):
    """What decides the split of a document."""

    @property
    def validation_fraction(self) -> float: ...
    @property
    def test_fraction(self) -> float: ...
    @property
    def seed(self) -> int: ...


def require_fractions(rules: SplitRules) -> None:
    """Raise unless the shares that are held out leave something for training."""
    validation, test = rules.validation_fraction, rules.test_fraction
    if not (validation >= 0 and test >= 0 and validation + test < 1):
        raise BadInput("validation_fraction", (validation, test), "Both fractions together stay below 1.")


@dataclass(frozen=True)
class RowRules:
    """Everything that decides which rows there are.

    Args:
        min_position: the first position that may be read; early ones are attention sinks.
        max_length: documents are cut after so many tokens.
        positions_per_document: rows per document, at different positions, where it is long enough.
        continuation_length: true next tokens kept with each row.
        validation_fraction: share of documents held out for choosing.
        test_fraction: share of documents held out for reporting.
        seed: of split and positions.
    """

    min_position: int = 16
    max_length: int = 512
    positions_per_document: int = 4
    continuation_length: int = 8
    validation_fraction: float = 0.05
    test_fraction: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in [("min_position", self.min_position), ("seed", self.seed)]:
            if value < 0:
                raise BadInput(name, value, "Use 0 or more.")
        if self.max_length < self.min_position + 2:
            fix = f"Use --max_length {self.min_position + 2} or more"
            fix += f", or a lower --min_position than {self.min_position}." if self.min_position else "."
            why = "a row takes the token at --min_position and one behind it, and documents are cut before"
            raise BadInput("max_length", self.max_length, fix, why)
        for name, value in [
            ("positions_per_document", self.positions_per_document),
            ("continuation_length", self.continuation_length),
        ]:
            if value < 1:
                raise BadInput(name, value, "Use 1 or more.")
        require_fractions(self)


@dataclass(frozen=True)
class Prepared:
    """A document as tokens with its chosen positions."""

    doc_id: int
    ids: np.ndarray  # int32, whole document up to max_length
    positions: np.ndarray  # int64, increasing
    kept: dict[str, Any]

    @property
    def length(self) -> int:
        """Tokens that have to go through the model."""
        return int(self.positions[-1]) + 1


def split_of(text: str, rules: SplitRules) -> str:
    """The split of a document, from its words alone: two copies of one text never end up on both sides."""
    words = f"{rules.seed}|{' '.join(text.lower().split())}"
    point = int.from_bytes(blake2b(words.encode(), digest_size=8).digest(), "big") / 2**64
    if point < rules.test_fraction:
        return "test"
    return "validation" if point < rules.test_fraction + rules.validation_fraction else "train"


def positions_of(doc_id: int, length: int, rules: RowRules) -> np.ndarray:
    """Positions drawn uniformly, without repeats, from `[min_position, length - 2]`."""
    room = length - 1 - rules.min_position
    chosen = np.random.default_rng([rules.seed, doc_id]).choice(
        room, min(rules.positions_per_document, room), replace=False
    )
    return np.sort(chosen) + rules.min_position


def prepare(
    documents: Sequence[Document], tokenizer: PreTrainedTokenizerBase, rules: RowRules
) -> dict[str, list[Prepared]]:
    """Tokenise, split and choose positions; documents too short to have one are left out."""
    encoded = tokenizer([document.text for document in documents], truncation=True, max_length=rules.max_length)[
        "input_ids"
    ]
    prepared: dict[str, list[Prepared]] = {split: [] for split in SPLITS}
    for document, ids in zip(documents, encoded, strict=True):
        if len(ids) >= rules.min_position + 2:
            positions = positions_of(document.doc_id, len(ids), rules)
            own = Prepared(document.doc_id, np.asarray(ids, np.int32), positions, document.kept)
            prepared[split_of(document.text, rules)].append(own)
    return prepared
