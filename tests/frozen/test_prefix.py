"""The cheap swap and its slow twin agree, in values and in gradients, for every architecture."""

from __future__ import annotations

import pytest
import torch
from tiny import TINY_CONFIGS, padded_batch, shared_lm, tiny_lm
from transformers import DynamicCache
from twins import SIZE, judged, largest_difference, slow_twin, value

from consistency_lens.errors import BadInput
from consistency_lens.frozen import Edit, FrozenLM, Prefix

TOLERANCE = 1e-4
WINDOWED = [case for case in TINY_CONFIGS if case.endswith("-window")]


@pytest.mark.parametrize("horizon", [0, 4])
def test_the_swap_equals_its_slow_twin_at_every_site(any_lm: FrozenLM, horizon: int) -> None:
    errors = largest_difference(any_lm, padded_batch(horizon=4), any_lm.sites, horizon)
    assert max(errors) < TOLERANCE


@pytest.mark.parametrize("horizon", [0, 4])
@pytest.mark.parametrize("lengths", [(1, 1), (5, 5, 5), (2, 1), (4, 6, 5), (40, 1)], ids=str)
def test_the_swap_equals_its_slow_twin_for_rows_of_every_length(
    any_lm: FrozenLM, lengths: tuple[int, ...], horizon: int
) -> None:
    """Rows of one token, no padding, a context just below, at and above the sliding window of 5, and far above it."""
    batch = padded_batch(lengths, horizon=4, seed=len(lengths))
    sites = ["embed", "attn_out.0", "resid_post.1", "mlp_out.3"]
    assert max(largest_difference(any_lm, batch, sites, horizon, "add")) < TOLERANCE
    torch.testing.assert_close(
        any_lm.prefix(batch).logits(horizon=horizon), slow_twin(any_lm, batch, [], horizon), rtol=1e-4, atol=TOLERANCE
    )


def test_several_edits_at_once_equal_their_slow_twin(any_lm: FrozenLM) -> None:
    batch = padded_batch(horizon=4)
    values = [value(4, seed) for seed in range(4)]
    places = [("mlp_out.0", "replace"), ("resid_post.1", "add"), ("attn_out.2", "replace"), ("mlp_out.3", "add")]
    edits = [Edit(site, v, mode=mode) for (site, mode), v in zip(places, values, strict=True)]
    cheap, cheap_gradients = judged(any_lm.prefix(batch).logits(edits, 4), values)
    slow, slow_gradients = judged(slow_twin(any_lm, batch, edits, 4), values)
    torch.testing.assert_close(cheap, slow, rtol=1e-4, atol=TOLERANCE)
    for ours, theirs in zip(cheap_gradients, slow_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=TOLERANCE)


def test_one_value_for_all_rows_gets_the_gradient_of_all(lm: FrozenLM) -> None:
    batch, v = padded_batch(), torch.ones(SIZE, requires_grad=True)
    edit = Edit("resid_post.1", v)
    _, (cheap,) = judged(lm.prefix(batch).logits(edit), [v])
    _, (slow,) = judged(lm.logits(batch, edit, keep=1), [v])
    torch.testing.assert_close(cheap, slow, rtol=1e-4, atol=TOLERANCE)


@pytest.mark.parametrize("case", WINDOWED)
def test_the_windows_of_the_windowed_models_matter(case: str) -> None:
    """Else the cases above would compare nothing: with a wide window the same weights answer differently."""
    batch = padded_batch()
    wide, narrow = tiny_lm(case, sliding_window=4096), shared_lm(case)
    assert all(torch.equal(a, b) for a, b in zip(wide.model.parameters(), narrow.model.parameters(), strict=True))
    difference = (wide.logits(batch, keep=1) - narrow.logits(batch, keep=1)).abs().amax(-1).flatten()
    assert difference[0] > 1e-2  # 12 tokens
    assert difference[2] < TOLERANCE  # 1 token
    caches = DynamicCache(config=narrow.config).layers
    assert any(layer.is_sliding for layer in caches)


def test_both_kinds_of_layer_are_in_one_model() -> None:
    kinds = {
        case: {layer.is_sliding for layer in DynamicCache(config=shared_lm(case).config).layers} for case in WINDOWED
    }
    assert {True, False} in kinds.values() and {True} in kinds.values()


def test_only_the_edited_pass_carries_a_gradient(any_lm: FrozenLM) -> None:
    prefix = any_lm.prefix(padded_batch(horizon=2))
    v = value(4)
    assert not prefix.logits().requires_grad and not prefix.logits(horizon=2).requires_grad
    assert prefix.logits(Edit("resid_post.1", v)).requires_grad
    assert not prefix.logits(Edit("resid_post.1", v.detach())).requires_grad
    assert not any(layer.keys.requires_grad or layer.values.requires_grad for layer in prefix._cache.layers)


def test_a_prefix_is_not_changed_by_its_use(any_lm: FrozenLM) -> None:
    batch = padded_batch(horizon=4)
    prefix, edit = any_lm.prefix(batch), Edit("mlp_out.1", value(4).detach())
    uses = {
        "clean": lambda: prefix.logits(),
        "far": lambda: prefix.logits(horizon=4),
        "edited": lambda: prefix.logits(edit),
        "edited far": lambda: prefix.logits([edit], horizon=3),
        "read": lambda: prefix.read("resid_post.2")["resid_post.2"],
        "repeated": lambda: prefix.repeat(2).logits(horizon=1),
        "taken": lambda: prefix.take(torch.tensor([3, 0])).logits(horizon=2),
        "followed": lambda: prefix.followed_by(batch["continuation_ids"].flip(1)).logits(horizon=4),
        "continued": lambda: prefix.continue_greedily(6)[1],
        "extended": lambda: prefix.extended(batch["continuation_ids"]).logits(),
    }
    first = {name: use() for name, use in uses.items()}
    kept = [(layer.keys.clone(), layer.values.clone()) for layer in prefix._cache.layers]
    for seed in range(3):
        for i in torch.randperm(len(uses), generator=torch.Generator().manual_seed(seed)).tolist():
            name = list(uses)[i]
            assert torch.equal(uses[name](), first[name]), name
    for layer, (keys, values) in zip(prefix._cache.layers, kept, strict=True):
        assert torch.equal(layer.keys, keys) and torch.equal(layer.values, values)


def test_two_graphs_over_one_prefix_go_backward_independently(lm: FrozenLM) -> None:
    prefix, one, two = lm.prefix(padded_batch()), value(4, 1), value(4, 2)
    logits = [prefix.logits(Edit("resid_post.0", v)) for v in (one, two)]
    together = [judged(out, [v])[1][0] for out, v in zip(reversed(logits), (two, one), strict=True)]
    alone = [judged(lm.prefix(padded_batch()).logits(Edit("resid_post.0", v)), [v])[1][0] for v in (two, one)]
    assert all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))


def test_replacing_an_activation_by_itself_leaves_the_logits_bit_equal(any_lm: FrozenLM) -> None:
    prefix = any_lm.prefix(padded_batch(horizon=3))
    for site, own in prefix.read(any_lm.sites).items():
        assert own.shape == (4, SIZE)
        assert torch.equal(prefix.logits(Edit(site, own)), prefix.logits()), site
        ahead = (prefix.logits(Edit(site, own), 3) - prefix.logits(horizon=3)).abs().max()
        assert ahead < TOLERANCE, site  # a pass over one column and one over four round differently


def test_reading_from_the_prefix_is_reading(any_lm: FrozenLM) -> None:
    for lengths in ((12, 7, 1, 9), (1, 1)):
        batch = padded_batch(lengths)
        sites = any_lm.sites
        cheap, slow = any_lm.prefix(batch).read(sites), any_lm.read(batch, sites)
        assert list(cheap) == list(slow) == sites
        for site in sites:
            torch.testing.assert_close(cheap[site], slow[site][:, -1], rtol=1e-4, atol=TOLERANCE)


@pytest.mark.parametrize("lengths", [(12, 7, 1, 9), (1, 1)])
def test_repeat_is_the_prefix_of_repeated_rows(any_lm: FrozenLM, lengths: tuple[int, ...]) -> None:
    batch, rows = padded_batch(lengths, horizon=2), 3 * len(lengths)
    more = any_lm.prefix(batch).repeat(3)
    repeated = any_lm.prefix({name: column.repeat_interleave(3, 0) for name, column in batch.items()})
    edit = Edit("resid_post.1", value(rows).detach())
    for edits in ([], [edit]):
        torch.testing.assert_close(more.logits(edits, 2), repeated.logits(edits, 2), rtol=1e-4, atol=TOLERANCE)
    assert more.logits([edit]).shape[0] == rows


@pytest.mark.parametrize("lengths", [(12, 7, 1, 9), (1, 1, 1, 1)])
def test_take_is_the_prefix_of_those_rows(any_lm: FrozenLM, lengths: tuple[int, ...]) -> None:
    batch, rows = padded_batch(lengths, horizon=2), torch.tensor([2, 0, 0, 3, 1])
    taken = any_lm.prefix(batch).take(rows)
    alone = any_lm.prefix({name: column[rows] for name, column in batch.items()})
    for edits in ([], [Edit("resid_post.1", value(len(rows)).detach())]):
        torch.testing.assert_close(taken.logits(edits, 2), alone.logits(edits, 2), rtol=1e-4, atol=TOLERANCE)


@pytest.mark.parametrize("more", [1, 3, 8])
@pytest.mark.parametrize("lengths", [(12, 7, 1, 9), (1, 1), (4, 6, 5)], ids=str)
def test_an_extended_prefix_is_that_of_the_longer_rows(any_lm: FrozenLM, lengths: tuple[int, ...], more: int) -> None:
    batch = padded_batch(lengths, horizon=more)
    longer = {
        "input_ids": torch.cat([batch["input_ids"], batch["continuation_ids"]], 1),
        "attention_mask": torch.cat([batch["attention_mask"], batch["continuation_mask"]], 1),
    }
    extended, edit = (
        any_lm.prefix(batch).extended(batch["continuation_ids"]),
        Edit("resid_post.1", value(len(lengths))),
    )
    for edits in ([], [edit]):
        slow = any_lm.logits(longer, edits, keep=1)
        torch.testing.assert_close(extended.logits(edits), slow, rtol=1e-4, atol=TOLERANCE)
    assert torch.equal(extended.continue_greedily(3)[0], any_lm.prefix(longer).continue_greedily(3)[0])
    with pytest.raises(BadInput, match="rows hold 0 tokens"):  # the old continuation is not the new one
        extended.logits(horizon=1)


@pytest.mark.parametrize("lengths", [(12, 7, 4, 9), (6, 6)], ids=str)
def test_a_shortened_prefix_is_that_of_the_shorter_rows(any_lm: FrozenLM, lengths: tuple[int, ...]) -> None:
    """What was run is used again, and windows see what they would have seen."""
    batch, edit = padded_batch(lengths, horizon=4), Edit("resid_post.1", value(len(lengths)))
    whole = any_lm.prefix(batch)
    for columns in (1, 3):
        shorter = {name: batch[name][:, :-columns] for name in ("input_ids", "attention_mask")}
        for edits in ([], [edit]):
            slow = any_lm.logits(shorter, edits, keep=1)
            torch.testing.assert_close(whole.shortened(columns).logits(edits), slow, rtol=1e-4, atol=TOLERANCE)
        assert torch.equal(
            whole.shortened(columns).continue_greedily(3)[0], any_lm.prefix(shorter).continue_greedily(3)[0]
        )
    torch.testing.assert_close(whole.logits(), any_lm.logits(batch, keep=1), rtol=1e-4, atol=TOLERANCE)
    with pytest.raises(BadInput, match="rows hold 0 tokens"):  # the old continuation is not the new one
        whole.shortened(0).logits(horizon=1)
    with pytest.raises(BadInput, match="columns"):
        whole.shortened(max(lengths))


def test_a_row_of_which_nothing_is_left_spoils_no_other(any_lm: FrozenLM) -> None:
    batch = padded_batch((9, 2))
    logits = any_lm.prefix(batch).shortened(2).logits()
    alone = any_lm.logits({"input_ids": batch["input_ids"][:1, :-2]}, keep=1)
    torch.testing.assert_close(logits[:1], alone, rtol=1e-4, atol=TOLERANCE)
    assert bool(logits.isfinite().all())


def test_another_continuation_takes_the_place_of_the_true_one(any_lm: FrozenLM) -> None:
    batch, other = padded_batch(horizon=3), padded_batch(horizon=3, seed=1)
    swapped = batch | {name: other[name] for name in ("continuation_ids", "continuation_mask")}
    prefix = any_lm.prefix(batch)
    slow = slow_twin(any_lm, swapped, [], 3)
    torch.testing.assert_close(
        prefix.followed_by(other["continuation_ids"]).logits(horizon=3), slow, rtol=1e-4, atol=TOLERANCE
    )
    assert (prefix.logits(horizon=3) - slow)[:, 1:].abs().max() > 1e-2


@pytest.mark.parametrize("lengths", [(12, 7, 1, 9), (1, 1), (4, 6, 5)], ids=str)
def test_what_the_model_says_equals_repeated_whole_passes(any_lm: FrozenLM, lengths: tuple[int, ...]) -> None:
    batch = padded_batch(lengths)
    ids, sure = any_lm.prefix(batch).continue_greedily(7)
    longer = dict(batch)
    for t in range(7):
        best, choice = any_lm.logits(longer, keep=1)[:, 0].softmax(-1).max(-1)
        assert torch.equal(ids[:, t], choice)
        torch.testing.assert_close(sure[:, t], best, rtol=1e-4, atol=TOLERANCE)
        longer = {
            "input_ids": torch.cat([longer["input_ids"], choice.unsqueeze(1)], 1),
            "attention_mask": torch.nn.functional.pad(longer["attention_mask"], (0, 1), value=1),
        }
    assert sure.dtype == torch.float32 and not sure.requires_grad


def test_the_model_goes_on_up_to_its_longest_context(lm: FrozenLM) -> None:
    prefix = lm.prefix(padded_batch((lm.max_length - 3, 5)))
    assert prefix.continue_greedily(4)[0].shape == (2, 4)
    with pytest.raises(BadInput, match="takes at most 128"):
        prefix.continue_greedily(5)
    step, last = prefix.steps(), None
    for _ in range(4):
        last = step(last).argmax(-1)
    with pytest.raises(BadInput, match="takes at most 128"):
        step(last)


def test_a_batch_without_a_mask_has_no_padding(lm: FrozenLM) -> None:
    batch = padded_batch((8, 8))
    assert torch.equal(lm.prefix({"input_ids": batch["input_ids"]}).logits(), lm.prefix(batch).logits())


def test_a_shorter_continuation_leaves_its_first_columns_alone(lm: FrozenLM) -> None:
    batch = padded_batch(horizon=4)
    whole = lm.prefix(batch).logits(horizon=4)
    batch["continuation_mask"] = torch.tensor([[1, 1, 0, 0]]).repeat(4, 1)
    cut = lm.prefix(batch).logits(horizon=4)
    torch.testing.assert_close(cut[:, :3], whole[:, :3], rtol=1e-4, atol=TOLERANCE)
    assert cut.isfinite().all()


# What cannot work.


def test_padding_on_the_right_is_refused(lm: FrozenLM) -> None:
    batch = padded_batch()
    with pytest.raises(BadInput, match="Pad on the left") as caught:
        Prefix(lm, {"input_ids": batch["input_ids"].flip(1), "attention_mask": batch["attention_mask"].flip(1)})
    assert caught.value.field == "attention_mask"


@pytest.mark.parametrize("positions", [0, 3, -2, 12, None, torch.tensor([11, 11, 11, 11])])
def test_an_edit_before_p_is_refused(lm: FrozenLM, positions: int | torch.Tensor | None) -> None:
    with pytest.raises(BadInput, match=r"Use FrozenLM\.logits") as caught:
        lm.prefix(padded_batch()).logits(Edit("resid_post.1", torch.zeros(SIZE), positions))
    assert caught.value.field == "positions"


def test_soft_tokens_cannot_enter_what_has_run(lm: FrozenLM) -> None:
    with pytest.raises(BadInput, match=r"Use FrozenLM\.logits") as caught:
        lm.prefix(padded_batch()).logits(Edit("embed", torch.zeros(2, SIZE), mode="prepend"))
    assert (caught.value.field, caught.value.value) == ("mode", "prepend")


def test_p_may_be_named_by_its_column(lm: FrozenLM) -> None:
    prefix, v = lm.prefix(padded_batch()), torch.zeros(SIZE)
    assert torch.equal(prefix.logits(Edit("mlp_in.1", v, 11)), prefix.logits(Edit("mlp_in.1", v, -1)))


@pytest.mark.parametrize("held", [None, 2])
def test_a_horizon_beyond_the_continuation_is_refused(lm: FrozenLM, held: int | None) -> None:
    with pytest.raises(BadInput, match=f"rows hold {held or 0} tokens.*continuation_length") as caught:
        lm.prefix(padded_batch(horizon=held or 0)).logits(horizon=3)
    assert (caught.value.field, caught.value.value) == ("horizon", 3)


def test_a_negative_horizon_is_refused(lm: FrozenLM) -> None:
    with pytest.raises(BadInput, match="Give 0 for P alone") as caught:
        lm.prefix(padded_batch(horizon=4)).logits(horizon=-1)
    assert (caught.value.field, caught.value.value) == ("horizon", -1)


def test_saying_nothing_is_refused(lm: FrozenLM) -> None:
    with pytest.raises(BadInput, match="at least one token") as caught:
        lm.prefix(padded_batch()).continue_greedily(0)
    assert (caught.value.field, caught.value.value) == ("length", 0)


def test_a_value_that_does_not_fit_is_refused(lm: FrozenLM) -> None:
    for shape in ((3, SIZE), (4, SIZE + 1), (4, 2, SIZE)):
        with pytest.raises(BadInput, match="value="):
            lm.prefix(padded_batch()).logits(Edit("resid_post.1", torch.zeros(shape)))
