"""What `FrozenLM` refuses instead of computing something else than was meant."""

from __future__ import annotations

import pytest
import torch
from tiny import padded_batch

from consistency_lens.errors import BadInput
from consistency_lens.frozen import Edit, FrozenLM

SIZE, WIDTH = 32, 12


@pytest.mark.parametrize("keep", [0, -1])
def test_keeping_no_column_is_refused(lm: FrozenLM, keep: int) -> None:
    with pytest.raises(BadInput, match="at least 1 column") as caught:
        lm.logits(padded_batch(), keep=keep)
    assert (caught.value.field, caught.value.value) == ("keep", keep)


@pytest.mark.parametrize("positions", [0, -WIDTH, 10, torch.tensor([[0], [5], [11], [2]]), torch.tensor([[-1, -2]])])
@pytest.mark.parametrize("soft", [False, True])
def test_an_edit_of_padding_is_refused(lm: FrozenLM, positions: int | torch.Tensor, soft: bool) -> None:
    edits = [Edit("mlp_in.1", torch.zeros(SIZE), positions, "add")]
    edits += [Edit("embed", torch.zeros(1, SIZE), mode="prepend")] * soft
    with pytest.raises(BadInput, match="a column of padding") as caught:
        lm.logits(padded_batch(), edits)
    assert caught.value.field == "positions"


def test_the_last_column_of_rows_padded_on_the_right_is_padding(lm: FrozenLM) -> None:
    batch = {name: column.flip(1) for name, column in padded_batch().items()}
    with pytest.raises(BadInput, match="a column of padding"):
        lm.logits(batch, Edit("embed", torch.zeros(SIZE)))


def test_an_int_is_checked_without_looking_at_the_device(lm: FrozenLM) -> None:
    """Tensors on other devices are not looked at; `meta` stands for one that cannot be."""
    ids = torch.empty(4, WIDTH, dtype=torch.long, device="meta")
    for positions in (WIDTH, -WIDTH - 1):
        with pytest.raises(BadInput, match=f"have {WIDTH} columns"):
            lm.place(Edit("embed", torch.zeros(SIZE), positions), ids, ids)
    fits = lm.place(Edit("embed", torch.zeros(SIZE), torch.full((4, 1), WIDTH, device="meta").long()), ids, ids)
    assert fits.columns.shape == (4, 1)


@pytest.mark.parametrize("positions", [torch.zeros(4, 1), torch.zeros(4, 1, 1, dtype=torch.long), 1.0])
def test_reading_at_positions_that_are_no_whole_numbers_is_refused(lm: FrozenLM, positions: object) -> None:
    with pytest.raises(BadInput) as caught:
        lm.read(padded_batch(), "embed", positions)
    assert caught.value.field == "positions"


@pytest.mark.parametrize("shape", [(WIDTH,), (2, 2, WIDTH)])
def test_input_ids_of_another_shape_are_refused(lm: FrozenLM, shape: tuple[int, ...]) -> None:
    batch = {"input_ids": torch.ones(shape, dtype=torch.long)}
    soft = Edit("embed", torch.zeros(1, SIZE), mode="prepend")
    for attempt in (
        lambda: lm.read(batch, "embed"),
        lambda: lm.logits(batch),
        lambda: lm.logits(batch, soft),
        lambda: lm.prefix(batch),
    ):
        with pytest.raises(BadInput, match=r"Give \[rows, columns\]") as caught:
            attempt()
        assert (caught.value.field, caught.value.value) == ("input_ids", list(shape))


@pytest.mark.parametrize("mode", ["replace", "add", "prepend"])
def test_an_edit_meant_for_another_lm_is_refused(lm: FrozenLM, mode: str) -> None:
    other = FrozenLM(lm.model, lm.tokenizer, name="receiver")
    assert (lm.name, other.name) == ("base", "receiver")
    mine, theirs = (Edit("embed", torch.zeros(1, SIZE), mode=mode, lm=one.name) for one in (lm, other))
    batch = padded_batch()
    assert torch.equal(lm.logits(batch, mine), other.logits(batch, theirs))
    for one, edit in ((lm, theirs), (other, mine)):
        for attempt in (
            lambda one=one, edit=edit: one.logits(batch, edit),
            lambda one=one, edit=edit: one.prefix(batch).logits([edit]),
        ):
            with pytest.raises(BadInput, match=f"this one is named '{one.name}'") as caught:
                attempt()
            assert (caught.value.field, caught.value.value) == ("lm", edit.lm)
