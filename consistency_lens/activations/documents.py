"""From documents to tokens: what decides which split a document is in, and which of its tokens are read.

Each is a function of the document and the rules alone. That is why what is stored does not depend on batch size,
number of processes or interruptions, and why a stream has what an extraction stores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from hashlib import blake2b
from typing import Any, ClassVar, Self

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..errors import BadInput
from ..options import option
from .corpus import Document

SPLITS = ("train", "validation", "test")


@dataclass
class SplitArguments:
    """Which documents are held out."""

    validation_fraction: float = option(0.05, "Share of documents held out for choosing.")
    test_fraction: float = option(0.05, "Share of documents held out for reporting.")
    seed: int = option(0, "Seed of the split and of all that is drawn from the documents.")


@dataclass(frozen=True)
class SplitRules:
    """What decides the split of a document.

    Args:
        validation_fraction: share of documents held out for choosing.
        test_fraction: share of documents held out for reporting.
        seed: of the split, and of all that is drawn.
    """

    validation_fraction: float = 0.05
    test_fraction: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        validation, test = self.validation_fraction, self.test_fraction
        if self.seed < 0:
            raise BadInput("seed", self.seed, "Use 0 or more.")
        if not (validation >= 0 and test >= 0 and validation + test < 1):
            raise BadInput("validation_fraction", (validation, test), "Both fractions together stay below 1.")

    @classmethod
    def of(cls, given: Any, **own: Any) -> Self:
        """The rules among some arguments; `own` replaces values."""
        return cls(**{each.name: vars(given)[each.name] for each in fields(cls)} | own)


@dataclass(frozen=True)
class DocumentRules(SplitRules):
    """What decides which tokens of a document are read.

    Args:
        min_position: the first position that may be read; early ones are attention sinks.
        max_length: documents are cut after so many tokens.
    """

    min_position: int = 1
    max_length: int = 512
    TAKES: ClassVar[tuple[int, str]] = 1, "the token at --min_position is taken"

    @property
    def least(self) -> int:
        """Tokens of the shortest document of which something is read."""
        return self.min_position + self.TAKES[0]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_position < 0:
            raise BadInput("min_position", self.min_position, "Use 0 or more.")
        if self.max_length < self.least:
            fix = f"Use --max_length {self.least} or more"
            fix += f", or a lower --min_position than {self.min_position}." if self.min_position else "."
            why = f"{self.TAKES[1]}, and documents are cut before"
            raise BadInput("max_length", self.max_length, fix, why)


@dataclass(frozen=True, eq=False)
class Tokens:
    """A document as tokens, those that are not kept included: the model needs them, and so does an evaluation."""

    doc_id: int
    ids: np.ndarray  # int32, whole document up to max_length

    @property
    def length(self) -> int:
        """Tokens that have to go through the model."""
        return len(self.ids)


def split_of(text: str, rules: SplitRules) -> str:
    """The split of a document, from its words alone: two copies of one text never end up on both sides."""
    words = f"{rules.seed}|{' '.join(text.lower().split())}"
    point = int.from_bytes(blake2b(words.encode(), digest_size=8).digest(), "big") / 2**64
    if point < rules.test_fraction:
        return "test"
    return "validation" if point < rules.test_fraction + rules.validation_fraction else "train"


def tokenised(
    documents: Sequence[Document], tokenizer: PreTrainedTokenizerBase, rules: DocumentRules
) -> dict[str, list[tuple[Document, np.ndarray]]]:
    """The documents of each split with their ids; those too short to have something read are left out."""
    texts = [document.text for document in documents]
    encoded = tokenizer(texts, truncation=True, max_length=rules.max_length)["input_ids"] if texts else []
    found: dict[str, list[tuple[Document, np.ndarray]]] = {split: [] for split in SPLITS}
    for document, ids in zip(documents, encoded, strict=True):
        if len(ids) >= rules.least:
            found[split_of(document.text, rules)].append((document, np.asarray(ids, np.int32)))
    return found


def by_length(documents: Sequence[Tokens], size: int) -> list[list[int]]:
    """Numbers of documents of similar length, `size` at a time, longest first: memory runs out at once or never."""
    order = sorted(range(len(documents)), key=lambda i: -documents[i].length)
    return [order[start : start + size] for start in range(0, len(order), size)]


def right_padded(batch: Sequence[Tokens]) -> np.ndarray:
    """Ids `[B, S]`. Padding on the right needs no attention mask, which keeps the fastest attention kernels in use."""
    ids = np.zeros((len(batch), max(document.length for document in batch)), np.int64)
    for row, document in zip(ids, batch, strict=True):
        row[: document.length] = document.ids[: document.length]
    return ids
