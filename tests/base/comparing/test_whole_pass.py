"""Clean against edited, two ways: the whole pass is the slow twin of the swap, and takes what the swap cannot."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import padded_batch, shared_lm
from torch import Tensor

from consistency_lens.base.comparing import TokenSwap, WholePass
from consistency_lens.errors import BadInput
from consistency_lens.frozen import Edit, FrozenLM

SITE = "resid_post.1"
CASES = ("llama", "gpt2", "gemma3-window")


def random_vectors(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 2


def last_column(batch: dict[str, Tensor]) -> Tensor:
    return torch.full((len(batch["input_ids"]), 1), batch["input_ids"].shape[1] - 1)


@pytest.mark.parametrize("case", CASES)
def test_at_the_last_column_it_is_the_swap(case: str) -> None:
    frozen, batch, found = shared_lm(case), padded_batch(), []
    for comparison in (TokenSwap.of(frozen, batch), WholePass.of(frozen, batch, last_column(batch))):
        value = random_vectors(4, 32).requires_grad_()
        kl = comparison.kl(comparison.edited(Edit(SITE, value)))
        kl.sum().backward()
        assert value.grad is not None and float(value.grad.abs().max()) > 0
        found.append((kl.detach(), value.grad, comparison.measure(Edit(SITE, value))["top1"]))
    for fast, slow in zip(*found, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_an_activation_in_its_own_place_changes_nothing(case: str) -> None:
    frozen, batch = shared_lm(case), padded_batch()
    own = frozen.read(batch, SITE)[SITE]
    measured = WholePass.of(frozen, batch).measure(Edit(SITE, own, positions=None))
    assert measured["kl"].tolist() == [0.0] * 4 and measured["top1"].tolist() == [1.0] * 4


def test_its_numbers_are_means_over_the_columns_that_are_no_padding() -> None:
    frozen, batch = shared_lm("llama"), padded_batch()
    edit = Edit("mlp_out.0", lambda seen: seen["resid_pre.0"] * 0.5, None, reads=("resid_pre.0",))
    measured = WholePass.of(frozen, batch).measure(edit)
    clean, edited = frozen.logits(batch).log_softmax(-1), frozen.logits(batch, edit).log_softmax(-1)
    for row, (ids, mask) in enumerate(zip(batch["input_ids"], batch["attention_mask"].bool(), strict=True)):
        p, q = clean[row][mask], edited[row][mask]
        assert float(measured["kl"][row]) == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), abs=1e-5)
        same = (p.argmax(-1) == q.argmax(-1)).float().mean()
        assert float(measured["top1"][row]) == pytest.approx(float(same))
        following = ids[mask][1:]
        if len(following):
            ce = -q[:-1].gather(1, following.unsqueeze(1)).mean()
            assert float(measured["ce"][row]) == pytest.approx(float(ce), abs=1e-5)
        else:
            assert measured["ce"][row].isnan()
    assert float(measured["kl"].max()) > 0.01


def test_a_row_is_the_same_alone_and_padded() -> None:
    frozen, batch = shared_lm("llama"), padded_batch()
    edit = Edit("mlp_out.1", lambda seen: seen["mlp_in.1"].tanh(), None, reads=("mlp_in.1",))
    together = WholePass.of(frozen, batch).measure(edit)
    for row, mask in enumerate(batch["attention_mask"].bool()):
        alone = WholePass.of(frozen, {"input_ids": batch["input_ids"][row][mask].unsqueeze(0)}).measure(edit)
        for name in ("kl", "top1", "ce"):
            torch.testing.assert_close(
                together[name][row : row + 1], alone[name], rtol=1e-4, atol=1e-5, equal_nan=True
            )


def soft_passage(frozen: FrozenLM) -> tuple[WholePass, Edit]:
    """A passage as its own embeddings, in front of the question alone."""
    passage = torch.arange(5, 11).repeat(2, 1) + torch.tensor([[0], [7]])
    question = torch.tensor([[20, 21, 22, 23], [30, 31, 32, 33]])
    whole = {"input_ids": torch.cat([passage, question], 1)}
    columns = torch.arange(6, 10).expand(2, -1)
    comparison = WholePass.of(frozen, whole, columns, {"input_ids": question}, torch.arange(4).expand(2, -1))
    return comparison, Edit("embed", frozen.read({"input_ids": passage}, "embed")["embed"], mode="prepend")


@pytest.mark.parametrize("case", ["llama", "gpt2"])
def test_soft_tokens_that_are_a_texts_own_embeddings_stand_for_it(case: str) -> None:
    comparison, soft = soft_passage(shared_lm(case))
    assert float(comparison.measure(soft)["kl"].max()) < 1e-5
    assert float(comparison.measure([])["kl"].min()) > 1e-3  # without the passage
    swapped = Edit("embed", soft.tensor.flip(0), mode="prepend")
    assert float(comparison.measure(swapped)["kl"].min()) > 1e-3


def test_repeated_rows_share_the_clean_pass() -> None:
    frozen, batch = shared_lm("llama"), padded_batch()
    comparison, values = WholePass.of(frozen, batch, last_column(batch)), random_vectors(8, 32)
    twice = comparison.repeat(2)
    assert twice.clean is comparison.clean
    found = twice.measure(Edit(SITE, values))
    for turn in (0, 1):
        alone = comparison.measure(Edit(SITE, values[turn::2]))
        for name, value in alone.items():
            torch.testing.assert_close(found[name][turn::2], value, equal_nan=True)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"columns": torch.tensor([[12], [0], [0], [0]])}, "columns"),
        ({"columns": torch.tensor([[-1], [0], [0], [0]])}, "columns"),
        ({"columns": torch.tensor([0, 1, 2, 3])}, "columns"),
        ({"columns": torch.zeros(3, 1, dtype=torch.long)}, "columns"),
        ({"edited_columns": torch.zeros(4, 2, dtype=torch.long)}, "edited_columns"),
        ({"edited_batch": {"input_ids": torch.ones(4, 3, dtype=torch.long)}}, "edited_columns"),
    ],
)
def test_columns_that_are_not_there_are_refused(given: dict[str, Any], field: str) -> None:
    with pytest.raises(BadInput, match=field):
        WholePass.of(shared_lm("llama"), padded_batch(), **given)


def test_a_row_without_a_next_token_has_no_cross_entropy() -> None:
    frozen, batch = shared_lm("llama"), padded_batch((6, 4, 5), horizon=2)
    edit = Edit("resid_post.1", torch.zeros(32))
    whole = TokenSwap.of(frozen, batch).measure(edit)["ce"]
    batch["continuation_mask"][1] = 0
    found = TokenSwap.of(frozen, batch).repeat(2).measure(edit)["ce"]
    assert found.isnan().tolist() == [False, False, True, True, False, False]
    torch.testing.assert_close(found[::2][[0, 2]], whole[[0, 2]])
