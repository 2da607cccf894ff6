"""Soft tokens of which rows have different numbers: the others are padding."""

from __future__ import annotations

import pytest
import torch
from tiny import padded_batch

from consistency_lens.errors import BadInput
from consistency_lens.frozen import Edit, FrozenLM

MASK = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 1, 1], [0, 0, 0]]).bool()


def values(count: int = 3) -> torch.Tensor:
    return torch.randn(4, count, 32, generator=torch.Generator().manual_seed(3)) * 0.3


@pytest.mark.parametrize("front", [0, 1])
def test_a_row_has_its_own_soft_tokens_alone(any_lm: FrozenLM, front: int) -> None:
    batch, value = padded_batch((12, 7, 2, 9)), values().requires_grad_()
    logits = any_lm.logits(batch, Edit("embed", value, front, "prepend", mask=MASK))
    for row in range(4):
        own = batch["input_ids"][row][batch["attention_mask"][row].bool()]
        edits = Edit("embed", value[row][MASK[row]], front, "prepend") if MASK[row].any() else ()
        expected = any_lm.logits({"input_ids": own[None]}, edits)[0]
        torch.testing.assert_close(logits[row, -len(own) :], expected, rtol=1e-3, atol=1e-4)
    logits[batch["attention_mask"].bool()].square().sum().backward()
    assert value.grad is not None and not value.grad[~MASK].any() and value.grad[MASK].abs().amax(-1).min() > 0


def test_generation_reads_them_so(lm: FrozenLM) -> None:
    batch = padded_batch((6, 4, 2, 5))
    together = lm.generate(batch, Edit("embed", values(), 1, "prepend", mask=MASK), max_new_tokens=4)
    for row in range(4):
        own = batch["input_ids"][row][batch["attention_mask"][row].bool()]
        edits = Edit("embed", values()[row][MASK[row]], 1, "prepend") if MASK[row].any() else ()
        alone = lm.generate(
            {"input_ids": own[None], "attention_mask": torch.ones_like(own)[None]}, edits, max_new_tokens=4
        )
        assert alone.ids[0].tolist() == together.ids[row][together.mask[row].bool()].tolist()


def test_a_mask_that_does_not_fit_is_refused(lm: FrozenLM) -> None:
    with pytest.raises(BadInput, match="mask"):
        lm.logits(padded_batch(), Edit("embed", values(), 0, "prepend", mask=MASK[:, :2]))
    with pytest.raises(BadInput, match="mask"):
        Edit("embed", values()[:, 0], 0, mask=MASK)
