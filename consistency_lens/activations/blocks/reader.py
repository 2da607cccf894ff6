"""Documents to one tensor: batches of similar length, each pass cut at the highest site, all kept tokens at all sites.

Shapes: B documents of a pass, S columns, n kept tokens, L sites, d hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...frozen import FrozenLM
from .documents import Tokens, labels_of
from .encoding import require_numbers


class BlockReader:
    """Reads all tokens of documents from a position on.

    Args:
        frozen: the model.
        sites: names of resolved sites, in the order of the forward pass.
        batch_size: documents per pass.
        min_position: the first position that is kept.
    """

    def __init__(self, frozen: FrozenLM, sites: Sequence[str], batch_size: int, min_position: int) -> None:
        self.frozen, self.sites, self.batch_size, self.min_position = frozen, list(sites), batch_size, min_position

    def batches(self, documents: Sequence[Tokens]) -> list[list[int]]:
        """Numbers of documents of similar length, longest first."""
        order = sorted(range(len(documents)), key=lambda i: -len(documents[i].ids))
        return [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]

    def read(self, documents: Sequence[Tokens], into: Tensor | None = None) -> Tensor:
        """Activations `[n, L, d]` of the kept tokens, in document order, on the model's device; raise where the model
        gave something that is not a number.

        Args:
            documents: whole; the tokens that are not kept are read as context.
            into: where to write them. Default: a tensor of the model's dtype.
        """
        ends = np.cumsum([len(document.ids) - self.min_position for document in documents])
        if into is None:
            shape = (int(ends[-1]), len(self.sites), self.frozen.hidden_size)
            into = torch.empty(shape, dtype=self.frozen.dtype, device=self.frozen.device)
        # What is picked stays in the cache of a CPU until it is put, and its sum is all that a good block needs.
        picked = torch.empty(0, dtype=self.frozen.dtype, device=self.frozen.device)
        total = torch.zeros((), device=into.device)
        for numbers in self.batches(documents):
            ids, taken = right_padded([documents[i] for i in numbers], self.min_position)
            found = self.frozen.read({"input_ids": ids}, self.sites)
            lengths = [len(documents[i].ids) - self.min_position for i in numbers]
            places = [np.arange(ends[i] - n, ends[i]) for i, n in zip(numbers, lengths, strict=True)]
            put = torch.from_numpy(np.concatenate(places)).to(into.device)
            for number, site in enumerate(self.sites):
                vectors = found.pop(site).flatten(0, 1)
                if (picked.device, picked.dtype) != (vectors.device, vectors.dtype):
                    picked = torch.empty(0, dtype=vectors.dtype, device=vectors.device)
                picked.resize_(len(taken), vectors.shape[1])
                torch.index_select(vectors, 0, taken.to(vectors.device), out=picked)
                total += picked.sum(dtype=torch.float32).to(total.device)
                into.select(1, number).index_copy_(0, put, picked.to(into))
        if not bool(total.isfinite()):  # the sum of good numbers may overflow, too
            require_numbers(into, self.sites, labels_of(documents, self.min_position).doc_id, self.frozen.model_id)
        return into


def right_padded(batch: Sequence[Tokens], min_position: int) -> tuple[Tensor, Tensor]:
    """`input_ids [B, S]`, and which of its B*S columns are kept, document after document.

    Padding on the right needs no attention mask, which keeps the fastest attention kernels in play.
    """
    width = max(len(document.ids) for document in batch)
    ids = np.zeros((len(batch), width), np.int64)
    for row, document in enumerate(batch):
        ids[row, : len(document.ids)] = document.ids
    taken = [row * width + np.arange(min_position, len(document.ids)) for row, document in enumerate(batch)]
    return torch.from_numpy(ids), torch.from_numpy(np.concatenate(taken))
