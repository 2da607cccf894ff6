"""Documents to one tensor: batches of similar length, each pass cut at the highest site, all kept tokens at all sites.

Shapes: B documents of a pass, S columns, n kept tokens, L sites, d hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...frozen import FrozenLM
from ..documents import Tokens, by_length, right_padded
from .buffers import Buffers
from .documents import labels_of
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

    def room_for(self, documents: Sequence[Tokens], room: Buffers) -> Tensor:
        """A tensor for what `read` gives, of the model's dtype; what is in it is arbitrary."""
        count = sum(document.length - self.min_position for document in documents)
        return room.empty((count, len(self.sites), self.frozen.hidden_size), self.frozen.dtype, self.frozen.device)

    def read(self, documents: Sequence[Tokens], into: Tensor | None = None) -> Tensor:
        """Activations `[n, L, d]` of the kept tokens, in document order, on the model's device; raise where the model
        gave something that is not a number.

        Args:
            documents: whole; the tokens that are not kept are read as context.
            into: where to write them. Default: a tensor of the model's dtype.
        """
        ends = np.cumsum([document.length - self.min_position for document in documents])
        if into is None:
            into = self.room_for(documents, Buffers(0))
        total = torch.zeros((), device=into.device)  # a sum that is finite is all that a good block needs
        for numbers in by_length(documents, self.batch_size):
            ids = torch.from_numpy(right_padded([documents[i] for i in numbers]))
            found = self.frozen.read({"input_ids": ids}, self.sites)
            vectors = [found.pop(site).to(into.device) for site in self.sites]
            for row, i in enumerate(numbers):
                kept = [each[row, self.min_position : documents[i].length] for each in vectors]
                put = into[ends[i] - len(kept[0]) : ends[i]]
                if put.dtype == kept[0].dtype:
                    torch.stack(kept, 1, out=put)
                else:
                    put.copy_(torch.stack(kept, 1))
            total += sum(each.sum(dtype=torch.float32) for each in vectors)
        if not bool(total.isfinite()):  # that of good numbers may overflow, too
            require_numbers(into, self.sites, labels_of(documents, self.min_position).doc_id, self.frozen.model_id)
        return into
