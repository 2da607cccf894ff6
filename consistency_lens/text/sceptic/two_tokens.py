"""`TwoTokens`: what the token at P and the likeliest next token are worth by themselves, without any text.

A table holds the mean training activation of each pair of tokens. Two linear probes read the pair from an activation.
All of it comes from sums, taken in one pass over the training rows.

Shapes: N rows, K pairs, C tokens, d hidden size.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .training_pairs import Pairs

RIDGE = 1e-3  # in standardised space
EXACT, OF_LAST, OF_ALL = 0, 1, 2  # how a row was found in the table: its pair, P's token alone, or neither


@dataclass
class TwoTokens:
    """Sums over training rows; `add` takes more of them.

    Args:
        pairs: (token at P, next token) -> its row in `sums`.
        sums: `[K, d]` of activations; `counts`: `[K]`, of how many.
        gram: `[d, d]`, sum of A A^T.
    """

    pairs: dict[tuple[int, int], int] = field(default_factory=dict)
    sums: Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    counts: Tensor = field(default_factory=lambda: torch.zeros(0))
    gram: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.float64))
    _probes: tuple[Tensor, Tensor, list[tuple[Tensor, Tensor, Tensor]]] | None = field(default=None, init=False)

    @classmethod
    def learned(cls, parts: Iterable[Pairs]) -> TwoTokens:
        found = cls()
        for part in parts:
            found.add(part)
        return found

    def add(self, part: Pairs) -> None:
        self._probes, size = None, part.vectors.shape[1]
        if not len(self.gram):
            self.sums, self.gram = torch.zeros(0, size), torch.zeros(size, size, dtype=torch.float64)
        keys = zip(part.last.tolist(), part.following.tolist(), strict=True)
        rows = torch.tensor([self.pairs.setdefault(key, len(self.pairs)) for key in keys])
        more = len(self.pairs) - len(self.counts)
        self.sums = torch.cat([self.sums, torch.zeros(more, size)]).index_add_(0, rows, part.vectors)
        self.counts = torch.cat([self.counts, torch.zeros(more)]).index_add_(0, rows, torch.ones(len(rows)))
        self.gram += (part.vectors.T @ part.vectors).double()

    def __len__(self) -> int:
        """How many training rows."""
        return int(self.counts.sum())

    def look_up(self, last: Tensor, following: Tensor) -> tuple[Tensor, Tensor]:
        """The table: `[N, d]`, and how each row was found, `[N]`: `EXACT`, else the mean of P's token, else of all."""
        by_last = self._by_token(0)
        tokens = {token: i for i, token in enumerate(by_last[0].tolist())}
        values = torch.cat([by_last[1] / by_last[2].unsqueeze(1), self.sums.sum(0, keepdim=True) / self.counts.sum()])
        means, found, how = self.sums / self.counts.unsqueeze(1), [], []
        for pair in zip(last.tolist(), following.tolist(), strict=True):
            row = self.pairs.get(pair)
            found.append(means[row] if row is not None else values[tokens.get(pair[0], -1)])
            how.append(EXACT if row is not None else OF_LAST if pair[0] in tokens else OF_ALL)
        return torch.stack(found), torch.tensor(how)

    def read(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """The probes: the token at P and the next token, as read from activations `[N, d]`."""
        if self._probes is None:
            self._probes = self._taught()
        mean, scale, heads = self._probes
        features = (vectors.double().cpu() - mean) / scale
        last, following = (tokens[(features @ weight + offset).argmax(1)] for tokens, weight, offset in heads)
        return last, following

    def _taught(self) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor, Tensor]]]:
        """Linear discriminants on standardised features: tokens differ in their means and share the spread round them.
        A fit to one-hot targets would let the rare tokens, of which facts are made, go unread."""
        rows, sums = self.counts.sum().double(), self.sums.double()
        mean = sums.sum(0) / rows
        covariance = self.gram / rows - torch.outer(mean, mean)
        scale = covariance.diagonal().clamp_min(1e-12).sqrt()
        covariance, heads = covariance / torch.outer(scale, scale), []
        for side in (0, 1):
            tokens, of_token, counts = self._by_token(side)
            share = counts.double() / rows
            means = (of_token.double() / counts.double().unsqueeze(1) - mean) / scale  # [C, d]
            within = covariance - (means * share.unsqueeze(1)).T @ means
            within += RIDGE * torch.eye(len(mean), dtype=torch.float64)
            weight = torch.linalg.solve(within, means.T)
            heads.append((tokens, weight, share.log() - (means * weight.T).sum(1) / 2))
        return mean, scale, heads

    def _by_token(self, side: int) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens `[C]` on one side of the pairs, their sums `[C, d]` and counts `[C]`."""
        tokens, where = torch.tensor([pair[side] for pair in self.pairs]).unique(return_inverse=True)
        sums = torch.zeros(len(tokens), self.sums.shape[1]).index_add_(0, where, self.sums)
        return tokens, sums, torch.zeros(len(tokens)).index_add_(0, where, self.counts)
