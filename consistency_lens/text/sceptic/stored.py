"""`StoredRows`: a training row in a row's place, the one whose explanation is nearest and the one whose activation is.

What the explanation finds is what its words are worth with a library of activations and no encoder; what the
activation itself finds is the most that such a library can give.

Shapes: B rows, N stored rows, T tokens of a text, W different tokens, d hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional as F

from ..parts.generation import Words

ROWS, BATCH = 1_024, 64
NEAREST_TEXT, NEAREST = "nearest_text", "nearest_activation"
DEFINED = {
    NEAREST_TEXT: "the training activation whose explanation is nearest to the lens's: cosine of their counts of "
    f"tokens, rare ones counting more; among {ROWS} rows at most",
    NEAREST: "the training activation that is nearest to A itself, among the same rows: the most that they can give",
}


@dataclass
class StoredRows:
    """
    Args:
        vectors: `[N, d]` float32.
        tokens: `[W]`, those that the explanations hold.
        rarity: `[W]`, what each counts.
        counts: `[N, W]`, of unit length.
    """

    vectors: Tensor
    tokens: Tensor
    rarity: Tensor
    counts: Tensor

    @classmethod
    def of(cls, lens: Any, rows: Any, site: str, most: int | None = None) -> StoredRows:
        """Some training rows, at most `most`, drawn from all documents, with what the lens says of them."""
        drawn = _drawn(rows, site, min(ROWS, most or ROWS))
        parts = [(vectors, lens.compress({"activations": {site: vectors}})) for vectors in drawn]
        return cls.holding(torch.cat([vectors for vectors, _ in parts]), [code for _, code in parts])

    @classmethod
    def holding(cls, vectors: Tensor, texts: list[Words]) -> StoredRows:
        """These rows, with their texts."""
        width = max(words.ids.shape[1] for words in texts)
        ids = torch.cat([F.pad(words.ids.cpu(), (0, width - words.ids.shape[1])) for words in texts])
        mask = torch.cat([F.pad(words.mask.cpu(), (0, width - words.mask.shape[1])) for words in texts])
        tokens = ids[mask.bool()].unique()
        plain = counted(ids, mask, tokens)
        # A token that every text holds still counts a little: texts may have nothing else.
        rarity = (len(ids) / (plain > 0).sum(0)).log() + 1 / len(ids)
        return cls(vectors.float().cpu(), tokens, rarity, F.normalize(plain * rarity, dim=1))

    def by_text(self, words: Words) -> Tensor:
        """`[B, d]`. Where no stored text shares a token, the first row."""
        asked = counted(words.ids.cpu(), words.mask.cpu(), self.tokens) * self.rarity
        return self.vectors[(asked @ self.counts.T).argmax(1)]

    def by_vector(self, vectors: Tensor) -> Tensor:
        """`[B, d]`, the nearest by distance."""
        return self.vectors[torch.cdist(vectors.float().cpu(), self.vectors).argmin(1)]


def counted(ids: Tensor, mask: Tensor, tokens: Tensor) -> Tensor:
    """How often each text holds each of some sorted tokens, `[B, W]` float32."""
    where = torch.searchsorted(tokens, ids).clamp_max(len(tokens) - 1)
    known = (tokens[where] == ids) & mask.bool()
    return torch.zeros(len(ids), len(tokens)).scatter_add_(1, where, known.float())


def _drawn(rows: Any, site: str, most: int) -> Iterator[Tensor]:
    """Activations of at most that many rows, a batch at a time."""
    if isinstance(rows, Dataset):
        order = np.sort(np.random.default_rng(0).permutation(len(rows))[:most])
        plain = rows.with_format("numpy", columns=[site])
        for part in np.array_split(order, -(-len(order) // BATCH)):
            yield torch.as_tensor(np.asarray(plain[part.tolist()][site])).float()
    else:
        found = [torch.as_tensor(np.asarray(row[site])).float() for row in rows.take(most)]
        yield from torch.stack(found).split(BATCH)
