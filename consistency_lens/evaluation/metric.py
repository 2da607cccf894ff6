"""`Fidelity`: the same numbers as a metric of the `evaluate` library, for use outside our trainer.

Fidelity().compute(original_logits=..., edited_logits=..., mean_logits=...)
"""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import torch
from torch import Tensor

from ..objectives import cosine_of, fve, kl_of, norm_ratio_of, recovered, top1_of

_DESCRIPTION = "How little a model's next tokens move when a restored activation takes the place of its own."
_INPUTS = """
Args:
    original_logits: `[N, V]`, of the untouched model at the position that was edited; or `[N, 1 + H, V]`, there and at
        the positions that follow.
    edited_logits: the same with the restored activation in place.
    mean_logits: the same with the mean training activation in place.
    original_vectors, restored_vectors: `[N, d]`, the activations themselves, of all rows. For `compute` alone.
    mean_vector: `[d]`, the mean training activation.

Returns:
    kl: mean KL(M(A) || M(Â)) in nats.
    kl_recovered: 1 - KL(M(A) || M(Â)) / KL(M(A) || M(μ)): 1 is perfect, 0 is the mean, negative is harm.
    top1: how often the likeliest next token stays the same.
    kl_horizon, kl_horizon_recovered: with the positions that follow, over all of them; kl_after_recovered: without the
        first.
    fve, cosine, norm_ratio: with vectors, how much of their variance is explained, their direction and length.
"""


class Fidelity(evaluate.Metric):
    """kl, kl_recovered and top1 of edited logits; over a horizon, and of vectors, where these are given."""

    def _info(self) -> Any:
        at_one = datasets.Sequence(datasets.Value("float32"))
        names = ("original_logits", "edited_logits", "mean_logits")
        shapes = (datasets.Sequence(at_one), at_one)  # the first that the rows fit to
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=[datasets.Features(dict.fromkeys(names, shape)) for shape in shapes],
        )

    def _compute(
        self,
        original_logits: Any,
        edited_logits: Any,
        mean_logits: Any,
        original_vectors: Any = None,
        restored_vectors: Any = None,
        mean_vector: Any = None,
    ) -> dict[str, float]:
        original, edited, mean = (torch.as_tensor(x) for x in (original_logits, edited_logits, mean_logits))
        found = {}
        if original.dim() == 3:
            found["kl_horizon"] = float(kl_of(original, edited).mean())
            found["kl_horizon_recovered"] = _recovered(original, edited, mean)
            if original.shape[1] > 1:
                found["kl_after_recovered"] = _recovered(original[:, 1:], edited[:, 1:], mean[:, 1:])
            original, edited, mean = (x[:, 0] for x in (original, edited, mean))
        found["kl"] = float(kl_of(original, edited).mean())
        found["kl_recovered"] = _recovered(original, edited, mean)
        found["top1"] = float(top1_of(original, edited).mean())
        if original_vectors is not None:
            found |= _of_vectors(*map(torch.as_tensor, (original_vectors, restored_vectors, mean_vector)))
        return found


def _recovered(original: Tensor, edited: Tensor, mean: Tensor) -> float:
    return float(recovered(kl_of(original, edited), kl_of(original, mean)))


def _of_vectors(original: Tensor, restored: Tensor, mean: Tensor) -> dict[str, float]:
    return {
        "fve": float(fve(restored, original, mean)),
        "cosine": float(cosine_of(restored, original).mean()),
        "norm_ratio": float(norm_ratio_of(restored, original).mean()),
    }
