"""`Judge`: what a world whose truth is known has to say about explanations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

Rows = Mapping[str, Sequence[Any]]


class Judge(Protocol):
    """Reads explanations beside the rows they belong to, and names rows that are worth a look of their own."""

    @property
    def name(self) -> str: ...

    @property
    def columns(self) -> Sequence[str]:
        """What it needs of a row, beyond `position` and `doc_id`, which are always there: columns, or sites."""
        ...

    @property
    def definitions(self) -> Mapping[str, str]:
        """A sentence for every number and every subset it names. A number `name/kind` is `name` of one kind of thing:
        such numbers stand in a table of their own."""
        ...

    def judge(self, explanations: Sequence[str], rows: Rows) -> Mapping[str, tuple[Tensor, Tensor]]:
        """Number -> numerator `[B]` and denominator `[B]`; the number is the ratio of their sums."""
        ...

    def subsets(self, rows: Rows) -> Mapping[str, Tensor]:
        """Name -> which rows belong to it, bool `[B]`."""
        ...


def rows_for(columns: Sequence[str], batch: Mapping[str, Any]) -> dict[str, Sequence[Any]]:
    """The columns that a judge asked for, as lists."""
    rows: dict[str, Sequence[Any]] = {}
    for column in ("position", "doc_id", *columns):
        values = batch["activations"][column] if column in batch["activations"] else batch[column]
        rows[column] = values.tolist() if isinstance(values, torch.Tensor) and values.dim() == 1 else values
    return rows
