"""What two tokens are worth: sums against plain means, probes against a solver, shared passes against whole ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lens_runs import SITE, tiny_rows
from tiny import shared_lm

from consistency_lens.text.sceptic import training_pairs as pairs_of
from consistency_lens.text.sceptic.training_pairs import Pairs, likeliest_behind, training_pairs
from consistency_lens.text.sceptic.two_tokens import EXACT, OF_ALL, OF_LAST, RIDGE, TwoTokens


@pytest.mark.parametrize("case", ["llama", "gpt2"])
def test_rows_of_a_document_share_its_pass(case: str) -> None:
    lm, rng = shared_lm(case), np.random.default_rng(0)
    whole, other = rng.integers(4, 60, 20), rng.integers(4, 60, 9)
    contexts = [whole[:7], other, whole, whole[:15], other[::-1].copy()]  # the last is of a document, and no prefix
    found = likeliest_behind(lm, contexts, [5, 2, 5, 5, 2])
    for ids, token in zip(contexts, found.tolist(), strict=True):
        assert token == int(lm.logits({"input_ids": torch.as_tensor(ids)[None]})[0, -1].argmax())


def test_every_training_row_comes_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, lm = tiny_rows().splits["train"], shared_lm("llama")
    monkeypatch.setattr(pairs_of, "CHUNK", 7)
    found = list(training_pairs(rows, lm, SITE))
    assert sum(len(part.last) for part in found) == len(rows) and len(found) > 1
    stored = torch.as_tensor(np.asarray(rows.with_format("numpy")[SITE])).float()
    assert torch.cat([part.vectors for part in found]).sum(0).allclose(stored.sum(0), atol=1e-3)
    some = list(training_pairs(rows, lm, SITE, most=10))
    assert sum(len(part.last) for part in some) == 10


def planted(rows: int = 600, size: int = 12) -> Pairs:
    """Activations that are the sum of what two tokens stand for, and a little noise."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(2, 9, size, generator=generator)
    last, following = (torch.randint(3, 9, (rows,), generator=generator) for _ in range(2))
    noise = 0.1 * torch.randn(rows, size, generator=generator)
    return Pairs(table[0][last] + table[1][following] + noise, last, following)


def test_the_table_is_the_mean_of_each_pair_and_falls_back() -> None:
    data = planted()
    two = TwoTokens.learned(Pairs(*(x[i : i + 100] for x in vars(data).values())) for i in range(0, 600, 100))
    assert len(two) == 600
    last, following = torch.tensor([4, 4, 8]), torch.tensor([5, 1, 1])
    last[2] = 2
    vectors, how = two.look_up(last, following)
    assert how.tolist() == [EXACT, OF_LAST, OF_ALL]
    pair = (data.last == 4) & (data.following == 5)
    assert vectors[0].allclose(data.vectors[pair].mean(0), atol=1e-4)
    assert vectors[1].allclose(data.vectors[data.last == 4].mean(0), atol=1e-4)
    assert vectors[2].allclose(data.vectors.mean(0), atol=1e-4)


def test_the_probes_are_linear_discriminants_and_read_what_was_planted() -> None:
    data, fresh = planted(), planted(700)
    two = TwoTokens.learned([data])
    last, following = two.read(fresh.vectors)
    assert (last == fresh.last).float().mean() > 0.97 and (following == fresh.following).float().mean() > 0.97
    # Written out: one Gaussian for each token, all of one shape.
    x, scale = data.vectors.double(), data.vectors.double().std(0, correction=0)
    x, y = (x - x.mean(0)) / scale, (fresh.vectors.double() - x.mean(0)) / scale
    tokens = data.last.unique()
    means = torch.stack([x[data.last == token].mean(0) for token in tokens])
    apart = x - means[torch.searchsorted(tokens, data.last)]
    within = apart.T @ apart / len(x) + RIDGE * torch.eye(x.shape[1], dtype=torch.float64)
    far = y.unsqueeze(1) - means
    scores = -torch.einsum("nci,ij,ncj->nc", far, within.inverse(), far) / 2
    scores += torch.stack([(data.last == token).double().mean().log() for token in tokens])
    assert torch.equal(tokens[scores.argmax(1)], last)


def test_a_rare_token_is_read(rare: int = 6) -> None:
    """A fit to one-hot targets loses it among the frequent ones."""
    generator = torch.Generator().manual_seed(1)
    table = torch.randn(40, 24, generator=generator)
    last = torch.cat([torch.zeros(4000, dtype=torch.long), torch.arange(1, 40).repeat_interleave(rare)])
    vectors = table[last] + 0.5 * torch.randn(len(last), 24, generator=generator)
    two = TwoTokens.learned([Pairs(vectors, last, last)])
    seldom = torch.arange(1, 40).repeat_interleave(5)
    fresh = table[seldom] + 0.5 * torch.randn(len(seldom), 24, generator=generator)
    assert (two.read(fresh)[0] == seldom).float().mean() > 0.9
