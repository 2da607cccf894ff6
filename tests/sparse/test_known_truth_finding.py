"""The best candidate of a fact against trying every candidate and threshold; counts against those written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from consistency_lens.demo.transcoder.finding import SCORES, Best, Counts, f1_of, look, mcc_of

FACTS = 3


def some(tokens: int = 60, candidates: int = 7, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(tokens, candidates, generator=generator).mul(4).round().div(4).relu()  # with ties, and zeros
    labels = torch.randint(-3, FACTS, (tokens,), generator=generator).clamp_min(-1)
    values[labels == 1, 2] += 1.5
    return values, labels


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_best_is_that_of_all_thresholds(name: str, seed: int) -> None:
    values, labels = some(seed=seed)
    best = Best.none(FACTS)
    look({name: best}, 5, values, labels)
    for fact in range(FACTS):
        there, tried = labels == fact, {}
        for column in range(values.shape[1]):
            for edge in [0.0, *values[:, column].unique().tolist()]:
                said = values[:, column] > edge
                counts = [float(x.sum()) for x in (said & there, said, there)]
                if counts[1]:
                    tried[column, edge] = float(
                        SCORES[name](*(torch.tensor(c, dtype=torch.float64) for c in [*counts, 60.0]))
                    )
        assert float(best.score[fact]) == pytest.approx(max(tried.values()))
        said = values[:, int(best.column[fact])] > best.threshold[fact]
        parts = (float((said & there).sum()), float(said.sum()), float(there.sum()), 60.0)
        again = SCORES[name](*(torch.tensor(part, dtype=torch.float64) for part in parts))
        assert float(again) == pytest.approx(float(best.score[fact])) and int(best.group[fact]) == 5
    worse = Best(best.score.clone(), best.group.clone(), best.column.clone(), best.threshold.clone())
    look({name: worse}, 6, values, labels)
    assert bool((worse.group == 5).all())  # no better than what was there


def test_scores_are_their_formulas() -> None:
    true, said, there, tokens = (torch.tensor(x, dtype=torch.float64) for x in (6.0, 8.0, 10.0, 100.0))
    assert float(f1_of(true, said, there, tokens)) == pytest.approx(2 * 0.75 * 0.6 / (0.75 + 0.6))
    predicted, truth = [1] * 8 + [0] * 92, [1] * 6 + [0] * 2 + [1] * 4 + [0] * 88
    assert float(mcc_of(true, said, there, tokens)) == pytest.approx(float(np.corrcoef(predicted, truth)[0, 1]))


def test_counts_are_of_documents_and_numbers_of_all() -> None:
    values, labels = some()
    document = torch.arange(60) // 10
    best = Best.none(FACTS)
    look({"f1": best}, 0, values, labels)
    counts = Counts.of(best, [(0, values)], labels, document)
    assert counts.counts.shape == (6, FACTS, 3) and counts.tokens.tolist() == [10.0] * 6
    assert counts.counts[:, :, 2].sum(0).tolist() == [int((labels == fact).sum()) for fact in range(FACTS)]
    mean, share = counts.numbers("f1", np.array([True, True, False]), 0.9)
    assert mean is not None and share is not None
    assert mean.value == pytest.approx(float(best.score[:2].mean()))  # on the very documents that it was chosen on
    assert mean.low < mean.value < mean.high and share.value == float((best.score[:2] >= 0.9).double().mean())
    assert counts.numbers("f1", np.zeros(FACTS, bool), 0.9) == (None, None)
