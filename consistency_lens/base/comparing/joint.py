"""`Joint`: one set of edits for several frozen models, each compared with itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from ...frozen import Edit, FrozenModels
from .comparison import Comparison


@dataclass(frozen=True)
class Joint(Comparison):
    """What is shown to people (`clean`, `edited`, `kl`) is the first model's; `measure` speaks of each.

    Args:
        models: by name, in order.
        parts: the comparison of each model, by its name.
    """

    models: FrozenModels
    parts: Mapping[str, Comparison]

    @classmethod
    def of(cls, models: FrozenModels, parts: Mapping[str, Comparison]) -> Joint:
        """A comparison for each of the models, which the family has made."""
        models.require_names(list(parts), "the comparison")
        first = parts[models.first.name]
        return cls(first.clean, first.mask, models, parts)

    def edited(self, edits: Edit | Sequence[Edit]) -> Tensor:
        first = self.models.first.name
        return self.parts[first].edited(self.models.deal(edits)[first])

    @torch.no_grad()
    def measure(self, edits: Edit | Sequence[Edit]) -> dict[str, Tensor]:
        """The numbers of each model as `number/model`, and their mean over the models as `number`."""
        dealt, found = self.models.deal(edits), dict[str, Tensor]()
        for name, part in self.parts.items():
            found |= {f"{number}/{name}": value for number, value in part.measure(dealt[name]).items()}
        numbers = dict.fromkeys(full.partition("/")[0] for full in found)
        means = {}
        for number in numbers:
            values = [value.to(self.mask.device) for full, value in found.items() if full.partition("/")[0] == number]
            means[number] = torch.stack(values).mean(0)
        return means | found

    def repeat(self, times: int) -> Self:
        parts = {name: part.repeat(times) for name, part in self.parts.items()}
        return type(self)(self.clean, self.mask.repeat_interleave(times, 0), self.models, parts)

    def ids(self, row: int) -> list[int]:
        return self.parts[self.models.first.name].ids(row)

    def shown_column(self, row: int) -> int:
        return self.parts[self.models.first.name].shown_column(row)
