"""Does the model follow a description? Texts that nobody's decoder wrote, through the lens's encoder, and what the
model then says.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ...evaluation.family import Seen
from ...frozen import Edit
from .controls import read_in

REPLACED, STEERED = "follows", "steered"


@dataclass(frozen=True)
class Asked:
    """A text for the encoder, and the word that the model says next if it follows it."""

    text: str
    word: str


class Sayings(Protocol):
    """A world that can say something else of a row, in many ways."""

    @property
    def columns(self) -> Sequence[str]:
        """What it needs of a row, beyond `position` and `doc_id`."""
        ...

    @property
    def ways(self) -> Mapping[str, str]:
        """Name of a way to say it -> what it is, in a few words."""
        ...

    def texts(
        self, explanations: Sequence[str], predicted: Sequence[str], rows: Mapping[str, Sequence[Any]], seed: int
    ) -> Mapping[str, Sequence[Asked | None]]:
        """Way -> a text for each row, or None where there is none.

        Args:
            explanations: what the lens says of each row.
            predicted: what the untouched model says next.
            rows: the columns.
            seed: of all choices; each batch has its own.
        """
        ...


def definitions_of(ways: Mapping[str, str]) -> dict[str, str]:
    """A sentence for each number."""
    what = {
        REPLACED: "how often the model says the fact that a text describes, the text's activation in A's place: {}",
        STEERED: "the same with E(text) - E(explanation) added to A: {}",
    }
    return {f"{how}_{way}": text.format(about) for way, about in ways.items() for how, text in what.items()}


def followed(
    lens: Any, seen: Seen, explanations: Sequence[str], asked: Mapping[str, Sequence[Asked | None]]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Number -> whether the model followed, and whether it was asked, `[B]` each. A text that is longer than the lens
    reads, or a word that the model does not have as one token, is not asked."""
    rows_of = len(explanations)
    found = {
        f"{how}_{way}": (torch.zeros(rows_of), torch.zeros(rows_of)) for way in asked for how in (REPLACED, STEERED)
    }
    every = [
        (way, row, one.text, target)
        for way, texts in asked.items()
        for row, one in enumerate(texts)
        if one is not None and (target := _one_token(seen, one.word)) is not None and _fits(lens, one.text)
    ]
    if not every:
        return found
    rows = torch.tensor([row for _, row, _, _ in every])
    site, at = read_in(seen)[0], lens.at(seen.batch)
    restored = lens.encoder(lens.reread([text for _, _, text, _ in every]), at=at).float()
    own = lens.encoder(lens.reread([explanations[row] for _, row, _, _ in every]), at=at).float()
    prefix, targets = seen.prefix.take(rows), torch.tensor([target for *_, target in every])
    edits = {REPLACED: Edit(site, restored), STEERED: Edit(site, restored - own, mode="add")}
    for how, edit in edits.items():
        hits = prefix.logits(edit)[:, 0].argmax(-1).cpu() == targets
        for (way, row, _, _), hit in zip(every, hits.tolist(), strict=True):
            right, there = found[f"{how}_{way}"]
            right[row], there[row] = float(hit), 1.0
    return found


def _one_token(seen: Seen, word: str) -> int | None:
    ids = seen.frozen.tokenizer(word, add_special_tokens=False)["input_ids"]
    return int(ids[0]) if len(ids) == 1 and ids[0] != seen.frozen.tokenizer.unk_token_id else None


def _fits(lens: Any, text: str) -> bool:
    return 0 < len(lens.tokenizer(text, add_special_tokens=False)["input_ids"]) <= lens.config.code_length
