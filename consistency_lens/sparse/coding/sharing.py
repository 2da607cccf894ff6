"""`Shards`: the features of every layer spread over processes, each of which holds as many.

Every process reads the same tokens, and encodes and decodes its own features. What they write is summed over the
processes, `[N, L, d]`; of a TopK, the k largest of each token go round first. So the loss is the same everywhere, and
the gradient of a feature is known where the feature is.

Shapes: N tokens, F features per layer of all processes, C of those of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ...errors import BadInput
from .entries import Entries

Active = Tensor | Entries


class _Sum(torch.autograd.Function):
    """Σ over processes. All of them have the same loss, so what is summed has the gradient of the sum."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        total = part.contiguous().clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


class _Read(torch.autograd.Function):
    """What every process has and each reads with its own features: its gradient is the sum over processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous().clone()
        torch.distributed.all_reduce(total)
        return total


@dataclass(frozen=True)
class Shards:
    """
    Args:
        index: of this process.
        count: of processes; with one, nothing is sent.
    """

    index: int = 0
    count: int = 1

    def require(self, features: int, across_layers: bool) -> None:
        """Raise where features cannot be dealt out."""
        if features % self.count:
            raise BadInput("features", features, f"Use a multiple of {self.count}, the number of processes.")
        if across_layers:
            fix = "Leave one of them out."
            raise BadInput("across_layers", True, fix, why="with shard_features the layers do not see each other")

    def own(self, features: int) -> slice:
        """Which of F features this process holds."""
        each = features // self.count
        return slice(self.index * each, (self.index + 1) * each)

    def read(self, x: Tensor) -> Tensor:
        """What all processes have, on its way to the features of each. Inside a pass it depends on what features of
        layers below have written."""
        if self.count == 1 or not x.requires_grad:
            return x
        entered: Tensor = _Read.apply(x)
        return entered

    def sum(self, part: Tensor) -> Tensor:
        """Of what each process has, with its gradient."""
        if self.count == 1:
            return part
        total: Tensor = _Sum.apply(part)
        return total

    def kth(self, largest: Tensor, k: int) -> Tensor:
        """The k-th largest of each row over all processes, `[N, 1]`; -inf where there are fewer.

        Args:
            largest: of each row, what is largest in this process, at most k.
        """
        padded = functional.pad(largest, (0, k - largest.shape[1]), value=-torch.inf).contiguous()
        found = [torch.empty_like(padded) for _ in range(self.count)]
        torch.distributed.all_gather(found, padded)
        return torch.cat(found, 1).topk(k, dim=1).values[:, -1:]

    def whole(self, active: Sequence[Active]) -> list[Active]:
        """Active features of all processes, layer by layer, without gradient."""
        if self.count == 1:
            return list(active)
        return [self._merged(each if isinstance(each, Entries) else Entries.where(each > 0, each)) for each in active]

    def _merged(self, own: Entries) -> Entries:
        """The entries of one layer of all processes, in the order of tokens."""
        count, width = own.shape
        parts = (own.tokens, own.features + self.index * width, own.values)
        tokens, features, values = (self._joined(part) for part in parts)
        order = tokens.argsort(stable=True)
        return Entries(tokens[order], features[order], values[order], (count, width * self.count))

    def _joined(self, part: Tensor) -> Tensor:
        """What every process has of something, `[n]` with an n of each, one after the other."""
        counts = [torch.zeros(1, dtype=torch.int64, device=part.device) for _ in range(self.count)]
        torch.distributed.all_gather(counts, torch.full_like(counts[0], len(part)))
        lengths = [int(count) for count in counts]
        padded = functional.pad(part.detach(), (0, max(*lengths, 1) - len(part)))
        found = [torch.empty_like(padded) for _ in lengths]
        torch.distributed.all_gather(found, padded)
        return torch.cat([each[:length] for each, length in zip(found, lengths, strict=True)])


ALONE = Shards()
