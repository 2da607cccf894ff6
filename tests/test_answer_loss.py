"""The cross-entropy of answers is aligned: labels shifted twice, PAD that is EOS and missing columns are caught."""

from __future__ import annotations

import math

import pytest
import torch
from tiny import VOCABULARY, shared_lm
from torch import Tensor
from torch.nn import functional as F

from consistency_lens import objectives as o
from consistency_lens.errors import BadInput

EOS = 2
GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(3, 4, 7, generator=GENERATOR)
IDS = torch.tensor([[4, 5, 6, 2], [3, 2, 2, 2], [5, 5, 2, 2]])  # padded with EOS
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]])
CONTEXT = torch.tensor([[1, 10, 11, 12]])
ANSWER = torch.tensor([[20, 21, 22, EOS]])


def sure_of(next_ids: Tensor, vocabulary: int = VOCABULARY) -> Tensor:
    """Logits of a model that knows the next token of every column."""
    return 30.0 * F.one_hot(next_ids, vocabulary).float()


def test_it_is_the_cross_entropy_written_out() -> None:
    expected = [F.cross_entropy(LOGITS[i, :n].double(), IDS[i, :n]).item() for i, n in enumerate(MASK.sum(1).tolist())]
    assert o.answer_nll_of(LOGITS, IDS, MASK).tolist() == pytest.approx(expected, rel=1e-5)
    first = F.cross_entropy(LOGITS[:, 0], IDS[:, 0], reduction="none")
    weighted = o.answer_nll_of(LOGITS, IDS, MASK, first_weight=0.5)
    torch.testing.assert_close(weighted, torch.tensor(expected).float() + 0.5 * first)


def test_the_mask_goes_by_length_where_the_pad_is_the_eos() -> None:
    other = IDS.clone()
    other[1, 2:], other[2, 3:] = 6, 6
    spoiled = LOGITS.clone()
    spoiled[1, 2:] = float("nan")
    clean = o.answer_nll_of(LOGITS, IDS, MASK)
    assert torch.equal(o.answer_nll_of(spoiled, other, MASK), clean)
    assert not torch.equal(o.answer_nll_of(LOGITS, IDS, (IDS != EOS).long()), clean), "the EOS is taught, too"
    logits = LOGITS.clone().requires_grad_()
    o.answer_nll_of(logits, IDS, MASK).sum().backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad.abs().sum(-1) > 0, MASK.bool())


def test_it_agrees_with_the_shift_that_transformers_makes() -> None:
    lm = shared_lm("llama")
    ids = torch.cat([CONTEXT, ANSWER], dim=1)
    labels = torch.cat([torch.full_like(CONTEXT, -100), ANSWER], dim=1)
    with torch.no_grad():
        out = lm.model(input_ids=ids, labels=labels)
    columns = out.logits[:, CONTEXT.shape[1] - 1 : -1]
    ours = o.answer_nll_of(columns, ANSWER, torch.ones_like(ANSWER))
    assert ours.item() == pytest.approx(out.loss.item(), rel=1e-5)


def test_a_double_shift_is_caught() -> None:
    """LatentWire gave labels that were shifted already to a loss that shifts them: column j learned to say y[j + 2].

    A model that knows every next token has loss 0 under an aligned loss, and more than log V under that one.
    """
    ids = torch.cat([CONTEXT, ANSWER], dim=1)
    logits = sure_of(ids.roll(-1, dims=1))
    columns, ones = logits[:, CONTEXT.shape[1] - 1 : -1], torch.ones_like(ANSWER)
    assert o.answer_nll_of(columns, ANSWER, ones).item() < 1e-6
    twice = F.cross_entropy(columns[:, :-1].flatten(0, 1), ANSWER[:, 1:].flatten()).item()
    assert twice > math.log(VOCABULARY)
    shifted = o.answer_nll_of(columns[:, :-1], ANSWER[:, 1:], ones[:, 1:]).item()
    assert shifted == pytest.approx(twice), "whoever slices wrongly gets that loss here, too"
    late = logits[:, CONTEXT.shape[1] :]
    assert o.answer_nll_of(late, ANSWER, ones).item() > math.log(VOCABULARY), "one column too late"


def test_columns_and_ids_have_to_fit() -> None:
    with pytest.raises(BadInput, match=r"shapes of logits, ids and mask do not fit.*columns that predict them"):
        o.answer_nll_of(LOGITS[:, :-1], IDS, MASK)
    with pytest.raises(BadInput, match="do not fit"):
        o.answer_nll_of(LOGITS, IDS, MASK[:, :-1])


def test_first_token() -> None:
    logits = sure_of(torch.tensor([[4, 0], [0, 3], [2, 5]]), 7)
    assert o.first_token_of(logits, torch.tensor([[4, 5], [3, 3], [2, 2]])).tolist() == [1, 0, 1]
