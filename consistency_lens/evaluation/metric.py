"""`Fidelity`: the same numbers as a metric of the `evaluate` library, for use outside our trainer.

Fidelity().compute(original_logits=..., edited_logits=..., mean_logits=...)
"""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import torch

from ..objectives import kl_of, recovered, top1_of

_DESCRIPTION = "How little a model's next token moves when a restored activation takes the place of its own."
_INPUTS = """
Args:
    original_logits: `[N, V]`, of the untouched model at the position that was edited.
    edited_logits: `[N, V]`, with the restored activation in place.
    mean_logits: `[N, V]`, with the mean training activation in place.

Returns:
    kl: mean KL(M(A) || M(Â)) in nats.
    kl_recovered: 1 - KL(M(A) || M(Â)) / KL(M(A) || M(μ)): 1 is perfect, 0 is the mean, negative is harm.
    top1: how often the likeliest next token stays the same.
"""


class Fidelity(evaluate.Metric):
    """kl, kl_recovered and top1 of edited logits."""

    def _info(self) -> Any:
        logits = datasets.Sequence(datasets.Value("float32"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"original_logits": logits, "edited_logits": logits, "mean_logits": logits}),
        )

    def _compute(self, original_logits: Any, edited_logits: Any, mean_logits: Any) -> dict[str, float]:
        original, edited, mean = (torch.as_tensor(x) for x in (original_logits, edited_logits, mean_logits))
        harm = kl_of(original, edited)
        return {
            "kl": float(harm.mean()),
            "kl_recovered": float(recovered(harm, kl_of(original, mean))),
            "top1": float(top1_of(original, edited).mean()),
        }
