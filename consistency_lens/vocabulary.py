"""Sums over the vocabulary, a few rows at a time: of the vocabulary's size, nothing is kept but the logits themselves.

With 128,000 words, 128 texts of 16 tokens are 1 GB in float32, and a formula written plainly holds several such
tensors until its backward pass. Here both passes make their softmax anew, part by part.

Shapes: B rows, G edited rows for each original one, `...` columns, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

PART = 2**23  # logits that are in float32 at a time


def _parts(rows: int, logits: Tensor) -> Iterator[slice]:
    """Slices over the first dimension, of which there are `rows`, that hold about `PART` of these logits each."""
    step = max(1, PART * rows // max(1, logits.numel()))
    return (slice(start, start + step) for start in range(0, max(1, rows), step))


class _LogProbability(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor) -> Tensor:
        total = torch.cat([logits[rows].float().logsumexp(-1) for rows in _parts(len(logits), logits)])
        ctx.save_for_backward(logits, ids, total)
        return logits.gather(-1, ids.unsqueeze(-1)).squeeze(-1).float() - total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        logits, ids, total = ctx.saved_tensors
        wanted, grad = torch.empty_like(logits), grad.unsqueeze(-1)
        for rows in _parts(len(logits), logits):
            soft = (logits[rows].float() - total[rows].unsqueeze(-1)).exp_().mul_(-grad[rows])
            wanted[rows] = soft.scatter_add_(-1, ids[rows].unsqueeze(-1), grad[rows])
        return wanted, None


class _KL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, original: Tensor, edited: Tensor) -> Tensor:
        times, found = len(edited) // max(1, len(original)), []
        for rows in _parts(len(original), edited):
            log_p, log_q = _logs(original, edited, rows, times)
            found.append(log_q.neg_().add_(log_p).mul_(log_p.exp_()).sum(-1).flatten(0, 1))
        kl = torch.cat(found)
        ctx.save_for_backward(original, edited, kl)
        return kl

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        original, edited, kl = ctx.saved_tensors
        times = len(edited) // max(1, len(original))
        to_p, to_q = (
            torch.empty_like(x) if needed else None
            for x, needed in zip((original, edited), ctx.needs_input_grad, strict=True)
        )
        by_row = (len(original), times, *grad.shape[1:], 1)
        grad, kl = grad.view(by_row), kl.view(by_row)
        for rows in _parts(len(original), edited):
            log_p, log_q = _logs(original, edited, rows, times)
            if to_p is not None:  # p (log p - log q - KL)
                to_p[rows] = (log_p - log_q).sub_(kl[rows]).mul_(grad[rows]).sum(1).mul_(log_p[:, 0].exp())
            if to_q is not None:  # q - p
                to_q[_times(rows, times)] = log_q.exp_().sub_(log_p.exp_()).mul_(grad[rows]).flatten(0, 1)
        return to_p, to_q


def _logs(original: Tensor, edited: Tensor, rows: slice, times: int) -> tuple[Tensor, Tensor]:
    """log p `[b, 1, ..., V]` of some original rows, and log q `[b, G, ..., V]` of the edited rows that are theirs."""
    log_p = original[rows].float().log_softmax(-1)
    log_q = edited[_times(rows, times)].float().log_softmax(-1)
    return log_p.unsqueeze(1), log_q.unflatten(0, (len(log_p), times))


def _times(rows: slice, times: int) -> slice:
    return slice(rows.start * times, rows.stop * times)


def log_probability(logits: Tensor, ids: Tensor) -> Tensor:
    """log p(ids) for logits `[B, ..., V]`, `[B, ...]`, in float32."""
    return _LogProbability.apply(logits, ids)


def kl(original: Tensor, edited: Tensor) -> Tensor:
    """sum_v p(v) (log p(v) - log q(v)) of `[B, ..., V]` and `[B * G, ..., V]`: G edited rows that stand together share
    an original one. `[B * G, ...]`, in float32."""
    return _KL.apply(original, edited)
