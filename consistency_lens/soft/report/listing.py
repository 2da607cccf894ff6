"""Some of the answers that receivers gave from codes, right ones and wrong ones, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ...evaluation.about import Listing

EACH = 5  # right answers of a receiver, and as many wrong ones


class Answered:
    """The first right answers of each receiver, and the first wrong ones, in the order of the evaluation."""

    def __init__(self) -> None:
        self._kept: dict[str, dict[bool, list[tuple[str, ...]]]] = {}

    def add(self, receiver: str, batch: Mapping[str, Any], said: Sequence[str], right: Tensor) -> None:
        """What a receiver said of each row of a batch, and whether that is an accepted answer."""
        kept = self._kept.setdefault(receiver, {True: [], False: []})
        rows = zip(batch["passage"], batch["prompt"], said, batch["answers"], right.bool().tolist(), strict=True)
        for passage, prompt, text, accepted, is_right in rows:
            if len(kept[is_right]) < EACH:
                kept[is_right].append((passage, prompt, text, " / ".join(accepted), "yes" if is_right else "no"))

    def listings(self) -> tuple[Listing, ...]:
        """One for each receiver; the passages were compressed, and not read."""
        columns = ("passage", "question", "answer from the code", "accepted", "right")
        return tuple(
            Listing(f"What {name} answered: the first {EACH} right and the first {EACH} wrong", columns, rows)
            for name, kept in self._kept.items()
            if (rows := (*kept[True], *kept[False]))
        )
