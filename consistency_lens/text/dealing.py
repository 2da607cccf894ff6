"""Which site each row of a training batch is about, and the row that it is paired with then.

Shapes: N rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..activations.contexts.dataset import pair_by_document


def dealt(doc_id: Tensor, sites: int, seed: int) -> Tensor:
    """A site for each row of a batch, `[N]`: all sites alike, rows of one document at different ones.

    Each site has rows of two documents at least, so that every row finds a partner of another document at its own
    site; where a batch is too small for that, it has fewer sites, other ones in each batch. Which, is a function of
    the seed.
    """
    noise = torch.Generator().manual_seed(seed)
    drawn = torch.rand(len(doc_id), generator=noise)
    order = torch.argsort(drawn)[torch.argsort(doc_id.cpu()[torch.argsort(drawn)], stable=True)]
    names = torch.randperm(sites, generator=noise)
    at = torch.empty(len(doc_id), dtype=torch.long)
    for count in range(max(1, min(sites, len(doc_id) // 2)), 0, -1):
        groups = [order[first::count] for first in range(count)]
        if count == 1 or all(len(doc_id.cpu()[rows].unique()) > 1 for rows in groups):
            for rows, name in zip(groups, names[:count].tolist(), strict=True):
                at[rows] = name
            return at
    return at


def partners(doc_id: Tensor, at: Tensor) -> Tensor:
    """For each row a row of another document that was read at the same site, `[N]`."""
    pair = torch.empty(len(at), dtype=torch.long)
    for site in at.unique().tolist():
        rows = (at == site).nonzero().flatten()
        pair[rows] = rows[pair_by_document(doc_id.cpu()[rows])]
    return pair
