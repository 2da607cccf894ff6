"""Chunk of documents to activations: batches of similar length, each pass cut at the highest site.

Shapes: B documents of a batch, S tokens, K positions per document, R rows of the chunk, d hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from ...frozen import FrozenLM
from ..documents import by_length, right_padded
from .rows import Prepared

# site -> [R, d], rows in document order, in the model's dtype, on the CPU
Vectors = dict[str, torch.Tensor]


class ChunkReader:
    """Reads the chosen positions of documents.

    Args:
        frozen: the model.
        sites: names of resolved sites.
        batch_size: documents per pass.
    """

    def __init__(self, frozen: FrozenLM, sites: Sequence[str], batch_size: int) -> None:
        self.frozen, self.sites, self.batch_size = frozen, list(sites), batch_size

    def read(self, prepared: Sequence[Prepared], advance: Callable[[list[Prepared]], None] | None = None) -> Vectors:
        """Activations of all rows of these documents; `advance` is called after each batch."""
        pinned = torch.cuda.is_available()
        rows_of = [len(p.positions) for p in prepared]
        held = {
            site: torch.empty(sum(rows_of), self.frozen.hidden_size, dtype=self.frozen.dtype, pin_memory=pinned)
            for site in self.sites
        }
        filled, order = 0, []
        copying: set[torch.device] = set()
        for indices in by_length(prepared, self.batch_size):
            batch = [prepared[i] for i in indices]
            columns, chosen = columns_of(batch)
            ids = torch.from_numpy(right_padded(batch))
            found = self.frozen.read({"input_ids": ids}, self.sites, columns)
            for site, vectors in found.items():
                picked = vectors.flatten(0, 1).index_select(0, chosen.to(vectors.device, non_blocking=True))
                # On a GPU the copy runs beside the next pass: nothing waits for it until the chunk is done.
                held[site][filled : filled + len(chosen)].copy_(picked, non_blocking=picked.is_cuda)
                if picked.is_cuda:
                    copying.add(picked.device)
            filled += len(chosen)
            order.extend(indices)
            if advance:
                advance(batch)
        for device in copying:
            torch.cuda.synchronize(device)
        back = _document_order(order, rows_of)
        return {site: vectors[back] for site, vectors in held.items()}


def columns_of(batch: Sequence[Prepared]) -> tuple[torch.Tensor, torch.Tensor]:
    """The columns `[B, K]` that are read of each document, and which of the B*K count."""
    counts = np.array([len(p.positions) for p in batch])
    columns = np.zeros((len(batch), counts.max()), np.int64)
    for i, document in enumerate(batch):
        columns[i, : counts[i]] = document.positions
    chosen = np.flatnonzero(np.arange(columns.shape[1]) < counts[:, None])
    return torch.from_numpy(columns), torch.from_numpy(chosen)


def _document_order(order: Sequence[int], rows_of: Sequence[int]) -> torch.Tensor:
    """For each row in document order, where it was put in batch order."""
    starts = np.zeros(len(rows_of), np.int64)
    starts[np.asarray(order, np.int64)] = np.cumsum([0, *(rows_of[i] for i in order)])[:-1]
    if not len(rows_of):
        return torch.zeros(0, dtype=torch.long)
    return torch.from_numpy(np.concatenate([start + np.arange(n) for start, n in zip(starts, rows_of, strict=True)]))
