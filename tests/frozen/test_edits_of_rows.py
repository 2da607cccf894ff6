"""An edit may write some rows alone: rows at different sites in one pass equal doing them one by one."""

from __future__ import annotations

import pytest
import torch
from tiny import padded_batch, shared_lm
from twins import SIZE, value

from consistency_lens.errors import BadInput
from consistency_lens.frozen import Edit

SITES = ["resid_post.0", "resid_post.1", "mlp_out.2", "resid_post.2"]


def one_row(batch: dict[str, torch.Tensor], row: int) -> dict[str, torch.Tensor]:
    return {name: tensor[row : row + 1] for name, tensor in batch.items()}


@pytest.mark.parametrize("horizon", [0, 4])
@pytest.mark.parametrize("mode", ["replace", "add"])
@pytest.mark.parametrize("case", ["llama", "gemma2", "gpt_neox", "qwen2-window"])
def test_rows_at_different_sites_equal_rows_one_by_one(case: str, mode: str, horizon: int) -> None:
    lm, batch = shared_lm(case), padded_batch(horizon=4)
    rows = len(batch["input_ids"])
    together, alone = value(rows, 1), value(rows, 1)
    at = torch.arange(rows) % len(SITES)
    edits = [Edit(site, together, mode=mode, rows=at == number) for number, site in enumerate(SITES)]
    logits = lm.prefix(batch).logits(edits, horizon)
    slow = [
        lm.prefix(one_row(batch, row)).logits(Edit(SITES[at[row]], alone[row : row + 1], mode=mode), horizon)
        for row in range(rows)
    ]
    for row, expected in enumerate(slow):
        torch.testing.assert_close(logits[row : row + 1], expected, rtol=1e-4, atol=1e-4)
    probe = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    (ours,) = torch.autograd.grad((logits * probe).sum(), together)
    (theirs,) = torch.autograd.grad((torch.cat(slow) * probe).sum(), alone)
    assert theirs.abs().max() > 1e-3
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_rows_that_are_not_written_stay_as_they_are_bit_for_bit() -> None:
    lm, batch = shared_lm("llama"), padded_batch()
    rows, written = len(batch["input_ids"]), torch.zeros(len(batch["input_ids"]), dtype=torch.bool)
    written[1] = True
    nothing = torch.full((rows, SIZE), torch.nan)
    nothing[1] = 0.5
    for positions in (-1, None):
        clean = lm.logits(batch, keep=1)
        edited = lm.logits(batch, Edit("resid_post.1", nothing[:, None], positions, rows=written), keep=1)
        assert torch.equal(edited[~written], clean[~written])
        assert not torch.equal(edited[1], clean[1]) and edited.isfinite().all()


def test_what_cannot_be_rows_is_refused_by_name() -> None:
    vectors = torch.zeros(4, SIZE)
    for rows in (torch.tensor([0, 1]), torch.zeros(2, 2, dtype=torch.bool)):
        with pytest.raises(BadInput, match=r"^rows=.*bool for each row"):
            Edit("resid_post.1", vectors, rows=rows)
    with pytest.raises(BadInput, match=r"^rows=.*Use mask"):
        Edit("embed", vectors[None], mode="prepend", rows=torch.ones(1, dtype=torch.bool))
    batch = padded_batch()
    with pytest.raises(BadInput, match=r"^rows=\[1\].*each of the 4 rows"):
        shared_lm("llama").logits(batch, Edit("resid_post.1", vectors, rows=torch.ones(1, dtype=torch.bool)))
