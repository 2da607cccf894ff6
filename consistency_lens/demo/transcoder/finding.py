"""Which single feature says best whether a token belongs to a fact: chosen on some documents, measured on others.

Shapes: N tokens, C candidates, K facts, D documents, R draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from consistency_lens.evaluation.bootstrap import DRAWS, Number

DEEPEST = 800  # tokens, at most, that a choice may call positive: a fact has some tens of them
CHUNK = 256  # candidates at a time


def f1_of(true: Tensor, chosen: Tensor, positive: Tensor, tokens: Tensor) -> Tensor:
    """2 TP / (chosen + positive)."""
    return 2 * true / (chosen + positive).clamp_min(1)


def mcc_of(true: Tensor, chosen: Tensor, positive: Tensor, tokens: Tensor) -> Tensor:
    """Matthews's correlation of what is chosen with what is so."""
    above = tokens * true - chosen * positive
    below = (chosen * (tokens - chosen) * positive * (tokens - positive)).clamp_min(1).sqrt()
    return above / below


SCORES: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {"f1": f1_of, "mcc": mcc_of}


@dataclass
class Best:
    """The best candidate of each fact so far: its score, which group of candidates and which column of it, and the
    threshold that it has to exceed."""

    score: Tensor
    group: Tensor
    column: Tensor
    threshold: Tensor

    @classmethod
    def none(cls, facts: int) -> Best:
        empty = torch.full((facts,), -1)
        return cls(torch.full((facts,), -torch.inf, dtype=torch.float64), empty, empty.clone(), torch.zeros(facts))

    def take(self, scores: Tensor, facts: Tensor, group: int, columns: Tensor, thresholds: Tensor) -> None:
        """Of some candidates, one for each entry `[E]`, those that are better than what there is."""
        for entry in scores.argsort().tolist():
            fact = int(facts[entry])
            if scores[entry] > self.score[fact]:
                self.score[fact], self.threshold[fact] = scores[entry], thresholds[entry]
                self.group[fact], self.column[fact] = group, columns[entry]


def look(bests: dict[str, Best], group: int, values: Tensor, labels: Tensor) -> None:
    """Compare the best candidates so far, by each score, with further ones.

    A candidate calls a token positive where its value exceeds a threshold of 0 or more. The best threshold lies just
    below the value of a token that is positive, so that only those among the highest have to be looked at.

    Args:
        bests: by the name of their score.
        group: number of these candidates.
        values: of each candidate on each token, `[N, C]`.
        labels: number of the fact of each token, `[N]`.
    """
    depth, facts = min(DEEPEST, len(values) - 1), len(next(iter(bests.values())).score)
    positive, tokens = torch.bincount(labels[labels >= 0], minlength=facts).double(), torch.tensor(float(len(values)))
    for first in range(0, values.shape[1], CHUNK):
        found, where = values[:, first : first + CHUNK].topk(depth + 1, dim=0)
        # Equal values are called positive together: of each rank, the last one of its value.
        ranks = torch.arange(depth)[:, None].expand(depth, found.shape[1])
        ends = torch.where(found[:-1] > found[1:], ranks, depth).flip(0).cummin(0).values.flip(0)
        of_label = labels[where[:-1]].T  # [C, depth]
        column, rank = (of_label >= 0).nonzero(as_tuple=True)
        fact = of_label[column, rank]
        order = (column * facts + fact).argsort(stable=True)  # ranks stay in order within a candidate and a fact
        column, rank, fact = column[order], rank[order], fact[order]
        _, counts = torch.unique_consecutive(column * facts + fact, return_counts=True)
        starts = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
        true = (torch.arange(len(rank)) - starts + 1).double()
        end = ends[rank, column]
        high, low = found[rank, column], found[(end + 1).clamp_max(depth), column].clamp_min(0)
        allowed = (end < depth) & (high > low)
        for name, best in bests.items():
            scores = SCORES[name](true, end.double() + 1, positive[fact], tokens).masked_fill(~allowed, -torch.inf)
            top = torch.full((facts,), -torch.inf, dtype=torch.float64).scatter_reduce_(0, fact, scores, "amax")
            at = ((scores == top[fact]) & allowed).nonzero()[:, 0]
            best.take(scores[at], fact[at], group, first + column[at], ((high + low) / 2)[at])


@dataclass
class Counts:
    """What chosen candidates get right, document by document: TP, chosen and positive, `[D, K, 3]`."""

    counts: np.ndarray
    tokens: np.ndarray

    @classmethod
    def of(cls, best: Best, groups: Iterable[tuple[int, Tensor]], labels: Tensor, document: Tensor) -> Counts:
        documents, facts = int(document.max()) + 1, len(best.score)
        counts = np.zeros((documents, facts, 3))
        numbers = document.numpy()
        for group, values in groups:
            for fact in (best.group == group).nonzero()[:, 0].tolist():
                said = (values[:, int(best.column[fact])] > best.threshold[fact]).numpy()
                there = (labels == fact).numpy()
                for place, hits in enumerate((said & there, said, there)):
                    counts[:, fact, place] += np.bincount(numbers[hits], minlength=documents)
        return cls(counts, np.bincount(numbers, minlength=documents).astype(float))

    def numbers(
        self, score: str, known: np.ndarray, high: float, seed: int = 0
    ) -> tuple[Number | None, Number | None]:
        """The mean score over the known facts, and the share of them at which it is high.

        Args:
            score: one of `SCORES`.
            known: which facts were chosen for, `[K]`; those of which no document has a token do not count either.
            high: from which score on.
            seed: of the draws.
        """
        documents = len(self.tokens)
        chances = np.full(documents, 1 / documents)
        drawn = np.random.default_rng(seed).multinomial(documents, chances, size=DRAWS)
        weights = np.concatenate([np.ones((1, documents)), drawn])
        sums = torch.from_numpy((weights @ self.counts.reshape(documents, -1)).reshape(len(weights), -1, 3))
        tokens = torch.from_numpy(weights @ self.tokens)[:, None]
        there = torch.from_numpy(known) & (sums[:, :, 2] > 0)
        found = SCORES[score](sums[:, :, 0], sums[:, :, 1], sums[:, :, 2], tokens)
        count = there.sum(1).clamp_min(1)
        mean = torch.where(there, found, 0.0).sum(1) / count
        share = (there & (found >= high)).sum(1) / count
        if not bool(there[0].any()):
            return None, None
        return Number.of(mean.numpy()), Number.of(share.double().numpy())
