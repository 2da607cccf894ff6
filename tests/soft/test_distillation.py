"""KL from the teacher's likeliest words, against the formula written out."""

from __future__ import annotations

import pytest
import torch

from consistency_lens.errors import BadInput
from consistency_lens.soft.objective import distillation_of


def drawn(*size: int, seed: int) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed)) * 2


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_with_all_words_it_is_the_kl(temperature: float) -> None:
    ours, theirs = drawn(3, 4, 11, seed=0), drawn(3, 4, 11, seed=1)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])
    best = theirs.topk(11, -1)
    found = distillation_of(ours, best.values, best.indices, mask, temperature)
    p, q = ((x / temperature).log_softmax(-1) for x in (theirs, ours))
    each = (p.exp() * (p - q)).sum(-1)
    expected = [temperature**2 * each[row, :n].mean() for row, n in enumerate((4, 2, 1))]
    torch.testing.assert_close(found, torch.stack(expected))


def test_with_some_words_their_share_of_the_teacher_is_what_counts() -> None:
    ours, theirs, mask = drawn(2, 3, 9, seed=0), drawn(2, 3, 9, seed=1), torch.ones(2, 3)
    best = theirs.topk(4, -1)
    p, q = best.values.softmax(-1), ours.softmax(-1).gather(-1, best.indices)
    torch.testing.assert_close(
        distillation_of(ours, best.values, best.indices, mask), (p * (p / q).log()).sum(-1).mean(1)
    )
    same = distillation_of(theirs, best.values, best.indices, mask)
    left = -theirs.softmax(-1).gather(-1, best.indices).sum(-1).log()
    torch.testing.assert_close(same, left.mean(1))


def test_padding_may_hold_anything() -> None:
    ours, theirs, mask = drawn(1, 3, 9, seed=0), drawn(1, 3, 9, seed=1), torch.tensor([[1, 1, 0]])
    best = theirs.topk(4, -1)
    found = distillation_of(ours, best.values, best.indices, mask)
    ours[:, 2] = torch.nan
    torch.testing.assert_close(distillation_of(ours, best.values, best.indices, mask), found)


def test_shapes_that_do_not_fit_are_refused() -> None:
    ours, best = drawn(2, 3, 9, seed=0), drawn(2, 2, 9, seed=1).topk(4, -1)
    with pytest.raises(BadInput, match="do not fit"):
        distillation_of(ours, best.values, best.indices, torch.ones(2, 3))
