"""`DocumentCode`: the active features of whole documents, one code per document.

Shapes: B documents, S columns, N tokens that are read (all but the first of each document), L chosen layers,
d hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...base.lens import Code
from ...frozen import FrozenLM
from ..use.replacing import kept_columns
from .code import SparseCode


@dataclass(frozen=True)
class DocumentCode(Code):
    """
    Args:
        tokens: features of all tokens, document after document.
        lengths: how many of them each document has, `[B]`.
    """

    tokens: SparseCode
    lengths: Tensor

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, rows: Tensor) -> DocumentCode:
        ends = self.lengths.cumsum(0)
        parts = [torch.arange(int(ends[r] - self.lengths[r]), int(ends[r]), device=ends.device) for r in rows]
        return DocumentCode(self.tokens.take(torch.cat(parts)), self.lengths[rows])

    def sums(self, values: Tensor) -> Tensor:
        """Summed over the tokens of each document: `[N, ...]` to `[B, ...]`."""
        return sums_of(values, self.lengths)

    def active(self) -> Tensor:
        """How many features are active on each token, `[N, L]`."""
        count = len(self.tokens)
        entries = self.tokens.entries
        return torch.stack([torch.bincount(own.tokens, minlength=count) for own in entries], 1)

    def rows(self, top: int = 10) -> list[dict[str, Any]]:
        """For people: one row per document, with the strongest features of its last token."""
        last = (self.lengths.cumsum(0) - 1).clamp_min(0)
        found = self.tokens.take(last).rows(top)
        return [{"explanation": row["explanation"], "active": row["active"]} for row in found]


def sums_of(values: Tensor, lengths: Tensor) -> Tensor:
    """`[N, ...]`, document after document, summed over each of them: `[B, ...]`."""
    document = torch.repeat_interleave(torch.arange(len(lengths), device=values.device), lengths.to(values.device))
    total = values.new_zeros(len(lengths), *values.shape[1:])
    return total.index_add_(0, document, values)


@torch.no_grad()
def read_documents(frozen: FrozenLM, batch: Mapping[str, Any], sites: Sequence[str]) -> dict[str, Tensor]:
    """What a model computes at some sites for all tokens of a batch but the first of each document: site -> `[N, d]`,
    document after document."""
    columns = ~kept_columns(batch, frozen.input_ids(batch))
    return {site: values[columns.to(values.device)] for site, values in frozen.read(batch, sites).items()}


def lengths_of(frozen: FrozenLM, batch: Mapping[str, Any]) -> Tensor:
    """Tokens of each document but its first, `[B]`."""
    return (~kept_columns(batch, frozen.input_ids(batch))).sum(1)
