"""The metric for others gives the numbers of our own formulas, at once and batch by batch."""

import pytest
import torch

from consistency_lens import Fidelity
from consistency_lens.objectives import cosine_of, fve, kl_of, recovered, top1_of


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


def test_over_a_horizon_and_of_vectors() -> None:
    generator = torch.Generator().manual_seed(2)
    original, edited, mean = (torch.randn(10, 4, 7, generator=generator) for _ in range(3))
    edited = original + edited / 4
    vectors, restored, mu = (torch.randn(shape, generator=generator) for shape in ((10, 6), (10, 6), (6,)))
    restored = vectors + restored / 3
    found = Fidelity().compute(
        original_logits=original,
        edited_logits=edited,
        mean_logits=mean,
        original_vectors=vectors,
        restored_vectors=restored,
        mean_vector=mu,
    )
    assert found["kl"] == pytest.approx(float(kl_of(original[:, 0], edited[:, 0]).mean()), abs=1e-6)
    assert found["top1"] == pytest.approx(float(top1_of(original[:, 0], edited[:, 0]).mean()))
    parts = {"kl_horizon_recovered": slice(None), "kl_recovered": slice(0, 1), "kl_after_recovered": slice(1, None)}
    for name, part in parts.items():
        harms = (kl_of(original[:, part], other[:, part]) for other in (edited, mean))
        assert found[name] == pytest.approx(float(recovered(*harms)), abs=1e-6), name
    assert found["fve"] == pytest.approx(float(fve(restored, vectors, mu)), abs=1e-6)
    assert found["cosine"] == pytest.approx(float(cosine_of(restored, vectors).mean()), abs=1e-6)
    assert "norm_ratio" in found and len(found) == 9
    metric = Fidelity()
    for row in range(10):
        metric.add(original_logits=original[row], edited_logits=edited[row], mean_logits=mean[row])
    again = metric.compute()
    assert again == pytest.approx({name: found[name] for name in again}, abs=1e-6) and len(again) == 6
