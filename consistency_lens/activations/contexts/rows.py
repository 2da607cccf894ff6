"""From documents to rows: positions and tokens, each a function of the document and the rules alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from transformers import PreTrainedTokenizerBase

from ...errors import BadInput
from ..corpus import Document
from ..documents import DocumentRules, Tokens, tokenised


@dataclass(frozen=True)
class RowRules(DocumentRules):
    """Everything that decides which rows there are.

    Args:
        positions_per_document: rows per document, at different positions, where it is long enough.
        continuation_length: true next tokens kept with each row.
        position_step: distance between positions that may be read, from `min_position` on.
    """

    min_position: int = 16
    positions_per_document: int = 4
    continuation_length: int = 8
    position_step: int = 1
    TAKES: ClassVar[tuple[int, str]] = 2, "a row takes the token at --min_position and one behind it"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("positions_per_document", "continuation_length", "position_step"):
            if (value := vars(self)[name]) < 1:
                raise BadInput(name, value, "Use 1 or more.")


@dataclass(frozen=True, eq=False)
class Prepared(Tokens):
    """A document with its chosen positions."""

    positions: np.ndarray  # int64, increasing
    kept: dict[str, Any]

    @property
    def length(self) -> int:
        """Tokens that have to go through the model."""
        return int(self.positions[-1]) + 1


def positions_of(doc_id: int, length: int, rules: RowRules) -> np.ndarray:
    """Positions drawn uniformly, without repeats, from each `position_step`-th of `[min_position, length - 2]`."""
    room = -(-(length - 1 - rules.min_position) // rules.position_step)
    chosen = np.random.default_rng([rules.seed, doc_id]).choice(
        room, min(rules.positions_per_document, room), replace=False
    )
    return np.sort(chosen) * rules.position_step + rules.min_position


def prepare(
    documents: Sequence[Document], tokenizer: PreTrainedTokenizerBase, rules: RowRules
) -> dict[str, list[Prepared]]:
    """Tokenise, split and choose positions; documents too short to have one are left out."""
    return {
        split: [
            Prepared(document.doc_id, ids, positions_of(document.doc_id, len(ids), rules), document.kept)
            for document, ids in found
        ]
        for split, found in tokenised(documents, tokenizer, rules).items()
    }
