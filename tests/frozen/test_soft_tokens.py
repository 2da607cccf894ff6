"""Soft tokens stand where real ones would stand: every case equals a longer sequence put together by hand."""

from __future__ import annotations

import pytest
import torch
from by_hand import llama, own_rows
from tiny import padded_batch, shared_lm
from torch import nn

from consistency_lens.errors import BadInput
from consistency_lens.frozen import Edit, FrozenLM

SIZE, SOFT = 32, 3
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
LENGTHS = (12, 7, 2, 9)


def soft_tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, SIZE, generator=torch.Generator().manual_seed(seed))


def by_hand(lm: FrozenLM, batch: dict, parts: list[tuple[torch.Tensor, int]]) -> list[torch.Tensor]:
    """Logits at each row's own tokens, from the row alone with the soft tokens `[B, K, d]` put into its embeddings.

    `parts`: soft tokens and how many own tokens stay in front, least first; of equals the first stands first.
    """
    expected = []
    for row, ids in enumerate(own_rows(batch)):
        embeddings = lm.model.get_input_embeddings()(ids)
        pieces, own, done, width = [], [], 0, 0
        for value, front in [*parts, (soft_tokens(len(own_rows(batch)), 0), len(ids))]:
            pieces += [embeddings[done:front], value[row]]
            own += range(width, width + front - done)
            width, done = width + front - done + value.shape[1], front
        together = torch.cat(pieces)
        expected.append(lm.model(inputs_embeds=together[None], use_cache=False).logits[0, own])
    return expected


def assert_rows(logits: torch.Tensor, mask: torch.Tensor, expected: list[torch.Tensor]) -> None:
    for row, theirs in enumerate(expected):
        torch.testing.assert_close(logits[row, mask[row].bool()], theirs, **CLOSE)


@pytest.mark.parametrize("front", [0, 1, 2])
def test_prepending_is_running_the_longer_sequence(any_lm: FrozenLM, front: int) -> None:
    batch, value = padded_batch(LENGTHS), soft_tokens(4, SOFT)
    edit = Edit("embed", value, front, "prepend")
    logits = any_lm.logits(batch, edit)
    assert logits.shape[:2] == batch["input_ids"].shape
    assert (logits - any_lm.logits(batch))[:, -1].abs().amax(-1).min() > 1e-3 or front == 2
    assert_rows(logits, batch["attention_mask"], by_hand(any_lm, batch, [(value, front)]))


def test_prepending_to_rows_padded_on_the_right(any_lm: FrozenLM) -> None:
    batch, value = padded_batch(LENGTHS), soft_tokens(4, SOFT)
    expected = by_hand(any_lm, batch, [(value, 1)])
    ids = nn.utils.rnn.pad_sequence(own_rows(batch), batch_first=True)
    mask = nn.utils.rnn.pad_sequence([torch.ones(n, dtype=torch.long) for n in LENGTHS], batch_first=True)
    for right in ({"input_ids": ids, "attention_mask": mask}, {"input_ids": ids}):
        assert_rows(any_lm.logits(right, Edit("embed", value, 1, "prepend")), mask, expected)


def test_prepending_is_what_the_llama_by_hand_does(lm: FrozenLM) -> None:
    batch, value = padded_batch(LENGTHS), soft_tokens(4, SOFT)
    logits = lm.logits(batch, Edit("embed", value, mode="prepend"))
    embed = lm.model.get_input_embeddings()
    for row, ids in enumerate(own_rows(batch)):
        expected = llama(lm.model, torch.cat([value[row], embed(ids)]))[SOFT:]
        torch.testing.assert_close(logits[row, -len(ids) :], expected, **CLOSE)


def test_soft_tokens_that_are_embeddings_are_tokens(any_lm: FrozenLM) -> None:
    """Words in front, given once as ids and once as soft tokens: also the padding differs."""
    batch, words = padded_batch(LENGTHS), torch.tensor([9, 33, 5])
    value = any_lm.model.get_input_embeddings()(words)
    logits = any_lm.logits(batch, Edit("embed", value, mode="prepend"))
    for row, ids in enumerate(own_rows(batch)):
        expected = any_lm.logits({"input_ids": torch.cat([words, ids])[None]})[0, SOFT:]
        torch.testing.assert_close(logits[row, -len(ids) :], expected, **CLOSE)


def test_several_prepends_stand_in_their_order(any_lm: FrozenLM) -> None:
    batch = padded_batch(LENGTHS)
    first, second, third = (soft_tokens(4, n, seed=n) for n in (1, 2, 3))
    edits = [Edit("embed", value, front, "prepend") for value, front in ((third, 1), (first, 0), (second, 0))]
    expected = by_hand(any_lm, batch, [(first, 0), (second, 0), (third, 1)])
    assert_rows(any_lm.logits(batch, edits), batch["attention_mask"], expected)


@pytest.mark.parametrize("front", [0, 1])
@pytest.mark.parametrize("site", ["embed", "mlp_in.0", "resid_post.1"])
def test_prepending_together_with_another_edit(any_lm: FrozenLM, site: str, front: int) -> None:
    """Positions go on meaning columns of `input_ids`."""
    batch, soft = padded_batch(LENGTHS), soft_tokens(4, SOFT)
    columns = torch.tensor([[2, 11], [6, 7], [10, 11], [11, 4]])
    value = soft_tokens(4, 2, seed=1)
    logits = any_lm.logits(batch, [Edit(site, value, columns), Edit("embed", soft, front, "prepend")])
    assert (logits - any_lm.logits(batch, Edit("embed", soft, front, "prepend"))).abs().max() > 1e-2
    for row, ids in enumerate(own_rows(batch)):
        # The same row with the words' own embeddings given as one longer replace at `embed`.
        own = columns[row] - (12 - len(ids))
        width = SOFT + len(ids)
        moved = own + SOFT * (own >= front)
        embeddings = any_lm.model.get_input_embeddings()(ids)
        longer = torch.cat([embeddings[:front], soft[row], embeddings[front:]])
        edits = [Edit("embed", longer[None], None), Edit(site, value[row][None], moved[None])]
        filler = {"input_ids": torch.zeros(1, width, dtype=torch.long)}
        expected = any_lm.logits(filler, edits)[0, [i for i in range(width) if not front <= i < front + SOFT]]
        torch.testing.assert_close(logits[row, -len(ids) :], expected, **CLOSE)


@pytest.mark.parametrize("mode", ["replace", "add"])
def test_an_edit_of_every_column_leaves_the_soft_tokens_alone(lm: FrozenLM, mode: str) -> None:
    batch, soft = padded_batch((12, 12, 12, 12)), Edit("embed", soft_tokens(4, SOFT), mode="prepend")
    for site in ("embed", "mlp_out.1", "resid_post.0"):
        value = soft_tokens(4, 12, seed=2)
        every = torch.arange(12).expand(4, -1)
        by_name, by_number = (lm.logits(batch, [Edit(site, value, at, mode), soft]) for at in (None, every))
        assert torch.equal(by_name, by_number)
        one = lm.logits(batch, [Edit(site, value[0, 0], None, mode), soft])
        same = lm.logits(batch, [Edit(site, value[0, 0], every, mode), soft])
        assert torch.equal(one, same) and not torch.equal(one, by_name)


@pytest.mark.parametrize("mode", ["replace", "add"])
def test_an_edit_of_every_column_of_padded_rows_is_that_of_each_row_alone(any_lm: FrozenLM, mode: str) -> None:
    batch, soft, value = padded_batch(LENGTHS), soft_tokens(4, SOFT), soft_tokens(4, 12, seed=2)
    for site in ("embed", "mlp_out.1"):
        edits = [Edit("embed", soft, 1, "prepend"), Edit(site, value, None, mode)]
        expected = []
        for row, ids in enumerate(own_rows(batch)):
            own = value[row : row + 1, -len(ids) :]
            alone = [Edit("embed", soft[row], 1, "prepend"), Edit(site, own, None, mode)]
            expected.append(any_lm.logits({"input_ids": ids[None]}, alone)[0])
        assert_rows(any_lm.logits(batch, edits), batch["attention_mask"], expected)


def test_the_gradient_reaches_every_soft_token(any_lm: FrozenLM) -> None:
    batch, v = padded_batch((6, 4, 2)), soft_tokens(3, 2).requires_grad_()
    any_lm.logits(batch, Edit("embed", v, 1, "prepend"), keep=1).square().sum().backward()
    ours, v.grad = v.grad, None
    sum(logits[-1].square().sum() for logits in by_hand(any_lm, batch, [(v, 1)])).backward()
    assert v.grad.abs().amax(-1).min() > 1e-5
    torch.testing.assert_close(ours, v.grad, **CLOSE)


def test_one_set_of_soft_tokens_serves_all_rows(lm: FrozenLM) -> None:
    batch, value = padded_batch(LENGTHS), soft_tokens(SOFT)
    one = lm.logits(batch, Edit("embed", value, mode="prepend"))
    assert torch.equal(one, lm.logits(batch, Edit("embed", value.expand(4, -1, -1), mode="prepend")))


@pytest.mark.parametrize("padded", ["left", "right", "not at all"])
def test_more_tokens_in_front_than_a_row_has_are_refused(lm: FrozenLM, padded: str) -> None:
    batch, most = padded_batch(LENGTHS), min(LENGTHS)
    if padded == "right":
        batch = {name: column.flip(1) for name, column in batch.items()}
    elif padded == "not at all":
        batch, most = {"input_ids": batch["input_ids"]}, max(LENGTHS)
    value = torch.zeros(SOFT, SIZE)
    lm.logits(batch, Edit("embed", value, most, "prepend"))
    with pytest.raises(BadInput, match=f"shortest row has {most} tokens") as caught:
        lm.logits(batch, Edit("embed", value, most + 1, "prepend"))
    assert (caught.value.field, caught.value.value) == ("positions", most + 1)


def test_no_soft_tokens_change_nothing(any_lm: FrozenLM) -> None:
    batch = padded_batch(LENGTHS)
    none = any_lm.logits(batch, Edit("embed", torch.zeros(0, SIZE), mode="prepend"))
    torch.testing.assert_close(none[:, -1], any_lm.logits(batch)[:, -1], **CLOSE)


def test_the_vocabulary_is_met_only_where_logits_are_kept() -> None:
    lm, seen = shared_lm("llama"), []
    head = lm.model.get_output_embeddings()
    handle = head.register_forward_hook(lambda module, args, output: seen.append(output.shape[1]))
    try:
        lm.logits(padded_batch(LENGTHS), Edit("embed", torch.zeros(SOFT, SIZE), mode="prepend"), keep=2)
        lm.logits(padded_batch(LENGTHS), keep=2)
    finally:
        handle.remove()
    assert seen == [2, 2]
