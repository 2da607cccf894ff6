"""`Entries`: the active features of many tokens in one layer, and sums over them by token or by feature.

Shapes: E entries, N tokens, F features per layer, D width of what is summed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Entries:
    """A sparse `[N, F]`.

    Args:
        tokens: row of each entry `[E]`, never decreasing.
        features: column of each entry `[E]`.
        values: `[E]`; gradients flow through them. An entry may be 0: a JumpReLU gives a gradient to the threshold of
            features that are not active.
        shape: (N, F).
    """

    tokens: Tensor
    features: Tensor
    values: Tensor
    shape: tuple[int, int]

    @classmethod
    def where(cls, mask: Tensor, values: Tensor) -> Entries:
        """The entries of `[N, F]` values at which the mask is true."""
        tokens, features = mask.nonzero(as_tuple=True)
        return cls(tokens, features, values[tokens, features], (mask.shape[0], mask.shape[1]))

    def with_values(self, values: Tensor) -> Entries:
        return replace(self, values=values)

    def detach(self) -> Entries:
        """The same without gradient."""
        return self.with_values(self.values.detach())

    def dense(self) -> Tensor:
        """`[N, F]`."""
        empty = torch.zeros(self.shape, dtype=self.values.dtype, device=self.values.device)
        return empty.index_put((self.tokens, self.features), self.values)

    def counts(self) -> Tensor:
        """On how many tokens each feature is active, `[F]` int64."""
        return torch.bincount(self.features[self.values > 0], minlength=self.shape[1])

    def take(self, rows: Tensor) -> Entries:
        """The entries of these tokens, in this order; a token may come several times."""
        starts = starts_of(self.tokens, self.shape[0])
        ends = torch.cat([starts[1:], starts.new_tensor([len(self.tokens)])])
        lengths = (ends - starts)[rows]
        new = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), lengths)
        begins = lengths.cumsum(0) - lengths
        where = torch.arange(len(new), device=rows.device) - begins[new] + starts[rows][new]
        return Entries(new, self.features[where], self.values[where], (len(rows), self.shape[1]))


def starts_of(sorted_ids: Tensor, count: int) -> Tensor:
    """Where the entries of each of `count` ids begin."""
    return torch.searchsorted(sorted_ids, torch.arange(count, device=sorted_ids.device))


def sum_by_token(entries: Entries, table: Tensor) -> Tensor:
    """Σ_j v_nj table_j: `[N, D]` from a table `[F, D]`. Only rows of active features are read, and get a gradient."""
    starts = starts_of(entries.tokens, entries.shape[0])
    return _bags(entries.features, table, starts, entries.values)


def sum_by_feature(entries: Entries, table: Tensor) -> Tensor:
    """Σ_n v_nj table_n: `[F, D]` from a table `[N, D]`; the weight gradient of `sum_by_token`."""
    order = entries.features.argsort(stable=True)
    features = entries.features[order]
    starts = starts_of(features, entries.shape[1])
    return _bags(entries.tokens[order], table, starts, entries.values[order])


def _bags(rows: Tensor, table: Tensor, starts: Tensor, weights: Tensor) -> Tensor:
    return F.embedding_bag(rows, table, starts, mode="sum", per_sample_weights=weights)
