"""Formulas on tensors: the terms of the objective and the numbers we publish, each with its equation.

Everything is computed in float32, whatever comes in. Functions named `..._of` give one value per row, so that weights,
rewards and intervals are the caller's business.

Shapes: B rows, H columns (P and the horizon), T tokens of a text, V vocabulary, d hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from . import vocabulary
from .errors import BadInput

_SMALLEST = 1e-12


def kl_of(original: Tensor, edited: Tensor, mask: Tensor | None = None) -> Tensor:
    """KL(M(A) || M(Â)) = sum_v p(v) (log p(v) - log q(v)), in nats, mean over the columns.

    Args:
        original: logits `[B, H, V]` (or `[B, V]`) of p.
        edited: logits of q; where there are G edited rows for each original one, they stand together.
        mask: of the edited rows, `[B, H]`, the columns that count; P always should.

    Returns:
        One number for each edited row, `[B]`, exactly 0 where the logits are equal.
    """
    if len(edited) % max(1, len(original)):
        fix = f"Give as many edited rows for each of the {len(original)} original ones."
        raise BadInput("edited", f"{len(edited)} rows", fix)
    return masked_mean(vocabulary.kl(original, edited), mask)


def log_probability_of(logits: Tensor, ids: Tensor) -> Tensor:
    """log M(t_t | t_<t) of each chosen token, `[B, T]`: what a policy gradient multiplies."""
    return vocabulary.log_probability(logits, ids)


def nll_of(logits: Tensor, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    """- mean_t log M(t_t | t_<t): `logits [B, T, V]` that predict `ids [B, T]`, in nats per token, `[B]`."""
    return masked_mean(-log_probability_of(logits, ids), mask)


def answer_nll_of(logits: Tensor, ids: Tensor, mask: Tensor, first_weight: float = 0.0) -> Tensor:
    """- mean_t log M(y_t | x, y_<t) - first_weight * log M(y_0 | x): the cross-entropy of answers, `[B]`.

    Args:
        logits: `[B, K, V]`, sliced to the columns that predict the answer: column t has read x and y_<t, and nothing
            here is shifted again.
        ids: y, `[B, K]`, with EOS where the answer ends, padded on the right.
        mask: `[B, K]`, 1 for the tokens of the answer. It goes by length: a PAD is often the EOS.
        first_weight: how much more the first token counts, on which all others hang.
    """
    if logits.shape[:2] != ids.shape or mask.shape != ids.shape:
        shapes = [list(each.shape) for each in (logits, ids, mask)]
        fix = "Give one column of logits and of the mask for each answer token: the columns that predict them."
        raise BadInput("logits", shapes, fix, why="the shapes of logits, ids and mask do not fit")
    nll = -log_probability_of(logits, ids)
    loss = masked_mean(nll, mask)
    return loss + first_weight * nll[:, 0] if first_weight else loss


def first_token_of(logits: Tensor, ids: Tensor) -> Tensor:
    """Whether argmax M(y_0 | x) is the first token of the answer (FirstTok@1), for the same `[B, K, V]`, as 0 or 1."""
    return (logits[:, 0].argmax(-1) == ids[:, 0]).float()


def direction_error_of(restored: Tensor, original: Tensor) -> Tensor:
    """|| Â/|Â| - A/|A| ||² of `[B, d]`: twice one minus the cosine, `[B]`."""
    return (F.normalize(restored.float(), dim=-1) - F.normalize(original.float(), dim=-1)).square().sum(-1)


def cosine_of(restored: Tensor, original: Tensor) -> Tensor:
    """cos(A, Â), `[B]`."""
    return F.cosine_similarity(restored.float(), original.float(), dim=-1)


def norm_ratio_of(restored: Tensor, original: Tensor) -> Tensor:
    """|Â| / |A|, `[B]`."""
    return (_log_norm(restored) - _log_norm(original)).exp()


def top1_of(original: Tensor, edited: Tensor) -> Tensor:
    """Whether argmax M(Â) = argmax M(A), for logits `[..., V]`, as 0 or 1; edited rows as for `kl_of`."""
    best = original.argmax(-1).repeat_interleave(len(edited) // max(1, len(original)), 0)
    return (best == edited.argmax(-1)).float()


def recovered(harm: Tensor, harm_of_baseline: Tensor) -> Tensor:
    """1 - mean(harm) / mean(harm of the baseline): 1 is perfect, 0 is the baseline, negative is worse than it.

    With KL to the mean activation as the baseline it is `kl_recovered`; with the rise in cross-entropy over the clean
    pass, and another document's activation as the baseline, `loss_recovered`.
    """
    return 1 - harm.mean() / harm_of_baseline.mean()


def fve(restored: Tensor, original: Tensor, mean: Tensor) -> Tensor:
    """Fraction of variance explained: 1 - sum |A - Â|² / sum |A - μ|², over all rows `[B, d]`."""
    original, mean = original.float(), mean.float()
    return 1 - (original - restored.float()).square().sum() / (original - mean).square().sum()


def _log_norm(vectors: Tensor) -> Tensor:
    # The clamp comes before the root: the gradient of a root at 0 is infinite.
    return vectors.float().square().sum(-1).clamp_min(_SMALLEST).log() / 2


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the second dimension, if there is one, of what the mask keeps."""
    if values.dim() == 1:
        return values
    if mask is None:
        return values.mean(1)
    kept = mask.to(values.dtype)
    # Not by multiplication alone: a masked column may hold NaN.
    return torch.where(mask.bool(), values, 0.0).sum(1) / kept.sum(1).clamp_min(1)
