"""The metric for others gives the numbers of our own formulas, at once and batch by batch."""

import pytest
import torch

from consistency_lens.evaluation.metric import Fidelity
from consistency_lens.objectives import kl_of, recovered, top1_of


def test_fidelity_at_once_and_in_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    original, edited, mean = (torch.randn(12, 7, generator=generator) for _ in range(3))
    edited = original + edited / 4
    expected = {
        "kl": float(kl_of(original, edited).mean()),
        "kl_recovered": float(recovered(kl_of(original, edited), kl_of(original, mean))),
        "top1": float(top1_of(original, edited).mean()),
    }
    whole = Fidelity().compute(original_logits=original, edited_logits=edited, mean_logits=mean)
    assert whole == pytest.approx(expected, abs=1e-6)
    metric = Fidelity()
    for i in range(0, 12, 4):
        part = slice(i, i + 4)
        metric.add_batch(original_logits=original[part], edited_logits=edited[part], mean_logits=mean[part])
    assert metric.compute() == pytest.approx(expected, abs=1e-6)


def test_an_edit_that_changes_nothing_is_perfect() -> None:
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    found = Fidelity().compute(original_logits=logits, edited_logits=logits, mean_logits=logits.flip(1))
    assert found == {"kl": 0.0, "kl_recovered": 1.0, "top1": 1.0}
