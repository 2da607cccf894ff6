"""Reading is cut and right, edits do what a forward pass written by hand does, and padding changes nothing."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from by_hand import llama_rows, own_rows
from tiny import TINY_CONFIGS, VOCABULARY, padded_batch, shared_lm, tiny_lm, tiny_model, tiny_tokenizer
from torch import nn
from twins import SITES

from consistency_lens.errors import BadInput
from consistency_lens.frozen import Edit, FrozenLM, Site
from consistency_lens.frozen.anatomy.parts import ANATOMY, blocks_of
from consistency_lens.frozen.sites import LAYERED

SIZE, WIDTH = 32, 12
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def leaves_that_run(model: nn.Module, work: Callable[[], object]) -> set[str]:
    """Names of the modules without children whose forward is entered during `work()`."""
    ran: set[str] = set()
    leaves = [(name, module) for name, module in model.named_modules() if not list(module.children())]
    handles = [
        module.register_forward_pre_hook(lambda module, args, name=name: ran.add(name)) for name, module in leaves
    ]
    try:
        work()
    finally:
        for handle in handles:
            handle.remove()
    return ran


# The model itself.


def test_the_model_is_frozen_and_gradients_flow_through_it(any_lm: FrozenLM) -> None:
    assert not any_lm.model.training
    assert not any(parameter.requires_grad for parameter in any_lm.model.parameters())
    for site in ("embed", "mlp_in.1", "resid_post.3"):
        value = noise(4, SIZE).requires_grad_()
        any_lm.logits(padded_batch(), Edit(site, value))[:, -1].square().sum().backward()
        assert value.grad.isfinite().all() and (value.grad.abs().amax(-1) > 0).all()
    assert all(parameter.grad is None for parameter in any_lm.model.parameters())


def test_a_model_in_training_mode_is_put_to_rest() -> None:
    model = tiny_model("gpt2", embd_pdrop=0.5, resid_pdrop=0.5, attn_pdrop=0.5).train()
    lm = FrozenLM(model, tiny_tokenizer())
    assert torch.equal(lm.logits(padded_batch()), lm.logits(padded_batch()))


def test_sizes(any_lm: FrozenLM) -> None:
    assert (any_lm.num_layers, any_lm.hidden_size, any_lm.vocab_size) == (4, SIZE, VOCABULARY)
    assert (any_lm.max_length, any_lm.device, any_lm.dtype) == (128, torch.device("cpu"), torch.float32)
    assert any_lm.site("resid_post.2/3") == Site("resid_post", 2)


@pytest.mark.parametrize("wrap", ["compiled", "headless", "name"])
def test_only_a_plain_causal_lm_is_taken(wrap: str) -> None:
    """Compiled from outside, the model would not notice hooks; without its head, it has no logits."""
    model = tiny_model("llama")
    model = {"compiled": torch.compile(model, backend="eager"), "headless": model.base_model, "name": "llama"}[wrap]
    with pytest.raises(BadInput) as caught:
        FrozenLM(model, tiny_tokenizer())
    assert caught.value.field == "model"


# Reading.


@pytest.mark.parametrize("layer", [0, 2, 3])
@pytest.mark.parametrize("stage", LAYERED)
def test_nothing_above_the_highest_site_runs(any_lm: FrozenLM, stage: str, layer: int) -> None:
    model, batch, anatomy = any_lm.model, padded_batch(), ANATOMY[any_lm.model.config.model_type]
    if f"{stage}.{layer}" not in any_lm.sites:
        with pytest.raises(BadInput, match="run in parallel"):
            any_lm.read(batch, f"{stage}.{layer}")
        return
    everything = leaves_that_run(model, lambda: any_lm.logits(batch))
    ran = leaves_that_run(model, lambda: any_lm.read(batch, ["embed", f"{stage}.{layer}"]))

    def inside(path: str) -> set[str]:
        return {name for name in everything if name == path or name.startswith(path + ".")}

    head = next(name for name, module in model.named_modules() if module is model.get_output_embeddings())
    assert head in everything and head not in ran
    blocks = [f"{anatomy.layers}.{i}" for i in range(4)]
    for i, block in enumerate(blocks):
        assert inside(block)
        if i < layer:
            assert inside(block) <= ran
        elif i > layer:
            assert not inside(block) & ran
    mlp = inside(f"{blocks[layer]}.{anatomy.mlp_in}")
    attention = {
        name for name in inside(blocks[layer]) if re.search(r"(attn|attention)\.\w*(proj|attn|dense|query)", name)
    }
    assert mlp and attention and not mlp & attention
    if stage == "resid_pre":
        assert not inside(blocks[layer]) & ran
    elif stage in ("attn_out", "resid_mid", "mlp_in"):
        assert attention <= ran and not mlp & ran
    else:
        assert attention | mlp <= ran


def test_reading_the_embedding_runs_no_block(any_lm: FrozenLM) -> None:
    ran = leaves_that_run(any_lm.model, lambda: any_lm.read(padded_batch(), "embed"))
    embedding = any_lm.model.get_input_embeddings()
    assert next(name for name, module in any_lm.model.named_modules() if module is embedding) in ran
    assert not any(name.startswith(ANATOMY[any_lm.model.config.model_type].layers) for name in ran)


@pytest.mark.parametrize("case", TINY_CONFIGS)
def test_residual_sites_are_the_hidden_states(case: str) -> None:
    """The last hidden state is left out: the library gives it after the final norm.

    On a model of its own: the library leaves hooks behind on a model that was asked for its hidden states.
    """
    batch, own = padded_batch(), tiny_lm(case)
    states = own.model(**own.inputs(batch), output_hidden_states=True).hidden_states
    found = own.read(batch, [f"{stage}.{i}" for stage in ("resid_pre", "resid_post") for i in range(4)])
    for i in range(4):
        assert torch.equal(found[f"resid_pre.{i}"], states[i])
        if i < 3:
            assert torch.equal(found[f"resid_post.{i}"], states[i + 1])


def test_reading_at_positions_picks_columns(any_lm: FrozenLM) -> None:
    batch, sites = padded_batch(), ["embed", "attn_out.1", "mlp_in.2"]
    columns = torch.tensor([[0, 11], [5, 6], [11, 11], [-1, -9]])
    whole, picked = any_lm.read(batch, sites), any_lm.read(batch, sites, columns)
    for site in sites:
        assert picked[site].shape == (4, 2, SIZE) and not picked[site].requires_grad
        for row in range(4):
            assert torch.equal(picked[site][row], whole[site][row, columns[row]])


def test_a_site_is_the_same_read_alone_or_with_others(lm: FrozenLM) -> None:
    batch, together = padded_batch(), lm.read(padded_batch(), SITES)
    assert list(together) == SITES
    assert all(torch.equal(lm.read(batch, site)[site], together[site]) for site in SITES)


def test_padding_left_right_or_none_changes_nothing(any_lm: FrozenLM) -> None:
    batch, sites = padded_batch(), ["embed", "attn_out.0", "mlp_in.3", "resid_post.3"]
    rows, mask = own_rows(batch), batch["attention_mask"].bool()
    left, left_logits = any_lm.read(batch, sites), any_lm.logits(batch)
    right_ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    right, right_logits = any_lm.read({"input_ids": right_ids}, sites), any_lm.logits({"input_ids": right_ids})
    for row, ids in enumerate(rows):
        alone = {"input_ids": ids[None]}
        for site, expected in any_lm.read(alone, sites).items():
            torch.testing.assert_close(left[site][row, mask[row]], expected[0], **CLOSE)
            torch.testing.assert_close(right[site][row, : len(ids)], expected[0], **CLOSE)
        expected = any_lm.logits(alone)[0]
        torch.testing.assert_close(left_logits[row, mask[row]], expected, **CLOSE)
        torch.testing.assert_close(right_logits[row, : len(ids)], expected, **CLOSE)


# Editing.


def columns_for(how: str, seed: int = 0) -> torch.Tensor | None:
    """Own columns of the rows of `padded_batch((12, 7, 4, 9))`."""
    if how == "all":
        return None
    generator = torch.Generator().manual_seed(seed)
    count = 1 if how == "one" else 3
    picked = [torch.randperm(length, generator=generator)[:count] for length in (12, 7, 4, 9)]
    return torch.stack([WIDTH - 1 - columns for columns in picked])


def edit_at(site: str, how: str, mode: str, seed: int = 0) -> Edit:
    columns = columns_for(how, seed)
    return Edit(site, noise(4, WIDTH if columns is None else columns.shape[1], SIZE, seed=seed), columns, mode)


def assert_as_by_hand(lm: FrozenLM, edits: list[Edit]) -> None:
    batch = padded_batch((12, 7, 4, 9))
    logits, mask = lm.logits(batch, edits), batch["attention_mask"].bool()
    for row, expected in enumerate(llama_rows(lm.model, batch, edits)):
        torch.testing.assert_close(logits[row, mask[row]], expected, **CLOSE)


def test_the_llama_by_hand_is_the_llama(lm: FrozenLM) -> None:
    assert_as_by_hand(lm, [])


@pytest.mark.parametrize("mode", ["replace", "add"])
@pytest.mark.parametrize("how", ["one", "several", "all"])
@pytest.mark.parametrize("site", SITES)
def test_an_edit_is_what_it_is_by_hand(lm: FrozenLM, site: str, how: str, mode: str) -> None:
    batch, edit = padded_batch((12, 7, 4, 9)), edit_at(site, how, mode)
    assert (lm.logits(batch, edit) - lm.logits(batch))[:, -1].abs().max() > 1e-2 or how != "all"
    assert_as_by_hand(lm, [edit])


@pytest.mark.parametrize("seed", range(12))
def test_several_edits_are_what_they_are_by_hand(lm: FrozenLM, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def pick(options: list[str]) -> str:
        return options[int(torch.randint(len(options), (), generator=generator))]

    edits = [
        edit_at(pick(SITES), pick(["one", "several", "all"]), pick(["replace", "add"]), 10 * seed + i)
        for i in range(4)
    ]
    assert_as_by_hand(lm, edits)


def test_adding_behind_a_part_is_adding_to_the_stream(any_lm: FrozenLM) -> None:
    batch, value = padded_batch(), noise(4, SIZE)
    columns = torch.tensor([[3], [7], [11], [10]])
    for i in range(3):
        places = (f"mlp_out.{i}", f"resid_post.{i}", f"resid_pre.{i + 1}")
        one, *others = (any_lm.logits(batch, Edit(place, value, columns, "add")) for place in places)
        own = batch["attention_mask"].bool()
        assert (one - any_lm.logits(batch))[own].abs().max() > 1e-2
        for other in others:
            torch.testing.assert_close(other[own], one[own], **CLOSE)


def test_replacing_the_embedding_is_giving_inputs_embeds(any_lm: FrozenLM) -> None:
    batch, value = padded_batch(), noise(4, WIDTH, SIZE)
    inputs = any_lm.inputs(batch)
    del inputs["input_ids"]
    expected = any_lm.model(inputs_embeds=value, **inputs, use_cache=False).logits
    assert torch.equal(any_lm.logits(batch, Edit("embed", value, None)), expected)


def test_replacing_an_activation_by_itself_leaves_the_logits_bit_equal(any_lm: FrozenLM) -> None:
    batch = padded_batch()
    clean, found = any_lm.logits(batch), any_lm.read(batch, any_lm.sites)
    columns = torch.tensor([[2, 11], [6, 10], [11, 11], [4, 5]])
    for site, whole in found.items():
        picked = whole.gather(1, columns.unsqueeze(-1).expand(-1, -1, SIZE))
        for edit in (Edit(site, whole[:, -1]), Edit(site, whole, None), Edit(site, picked, columns)):
            assert torch.equal(any_lm.logits(batch, edit), clean), site
    everywhere = [Edit(site, whole, None) for site, whole in found.items()]
    assert torch.equal(any_lm.logits(batch, everywhere), clean)


def test_every_way_to_give_value_and_positions(lm: FrozenLM) -> None:
    batch, value = padded_batch((12, 11, 9, 10)), noise(SIZE)
    each = value.expand(4, SIZE)
    expected = lm.logits(batch, Edit("resid_post.1", each, torch.full((4, 1), WIDTH - 2)))
    assert not torch.equal(expected, lm.logits(batch))
    for given in (value, each, each[:, None], value[None], value[None, None]):
        for positions in (-2, WIDTH - 2, torch.tensor(-2), torch.full((4,), -2).int(), torch.tensor([[-2]])):
            assert torch.equal(lm.logits(batch, Edit("resid_post.1", given, positions)), expected)
    several = lm.logits(batch, Edit("mlp_out.1", value, torch.tensor([[-2, 3]])))
    assert torch.equal(
        several, lm.logits(batch, Edit("mlp_out.1", each[:, None].expand(-1, 2, -1), torch.tensor([[-2, 3]])))
    )
    whole = lm.logits(batch, Edit("mlp_out.1", each[:, None].expand(-1, WIDTH, -1), None))
    for given in (value, each, value[None, None]):
        assert torch.equal(lm.logits(batch, Edit("mlp_out.1", given, None)), whole)


@pytest.mark.parametrize(
    ("shape", "positions", "mode"),
    [
        *[((3, SIZE), -1, "replace"), ((4, SIZE - 1), -1, "replace"), ((4, 1), -1, "add"), ((1,), None, "add")],
        *[
            ((4, 3, SIZE), -1, "replace"),
            ((4, 2, SIZE), torch.tensor([[1, 2, 3]]), "add"),
            ((2, 1, SIZE), None, "add"),
        ],
        *[((4, 5, SIZE), None, "replace"), ((WIDTH, SIZE), None, "replace")],
        *[((2, 3, SIZE - 1), 0, "prepend"), ((3, 2, SIZE), 0, "prepend"), ((SIZE, 2), 0, "prepend")],
    ],
)
def test_a_value_that_does_not_fit_says_what_would(lm: FrozenLM, shape, positions, mode) -> None:
    with pytest.raises(BadInput, match=rf"Give \[.*{SIZE}\]") as caught:
        lm.logits(padded_batch(), Edit("embed", torch.zeros(shape), positions, mode))
    assert (caught.value.field, caught.value.value) == ("value", list(shape))


@pytest.mark.parametrize(
    "positions", [WIDTH, -WIDTH - 1, torch.tensor([[1, WIDTH]]), torch.zeros(3, dtype=torch.long)]
)
def test_positions_outside_the_rows_are_refused(lm: FrozenLM, positions) -> None:
    with pytest.raises(BadInput) as caught:
        lm.logits(padded_batch(), Edit("embed", torch.zeros(SIZE), positions))
    assert caught.value.field == "positions"
    if isinstance(positions, torch.Tensor):
        with pytest.raises(BadInput):
            lm.read(padded_batch(), "embed", positions)


@pytest.mark.parametrize("keep", [1, 5, WIDTH, None])
def test_keep_gives_the_last_columns(any_lm: FrozenLM, keep: int | None) -> None:
    batch = padded_batch()
    prepend = Edit("embed", noise(3, SIZE), mode="prepend")
    for edits in ([], [Edit("resid_post.1", noise(4, SIZE))], [prepend]):
        kept, whole = any_lm.logits(batch, edits, keep), any_lm.logits(batch, edits)
        assert kept.shape == (4, keep or WIDTH, VOCABULARY)
        torch.testing.assert_close(kept, whole[:, -(keep or 0) :], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("site", ["embed", "mlp_in.1", "resid_post.2"])
def test_a_float32_edit_of_a_bfloat16_model_keeps_its_gradient(site: str) -> None:
    half = FrozenLM(tiny_model("llama").to(torch.bfloat16), tiny_tokenizer())
    batch, mode = padded_batch(), "replace"
    value = noise(4, SIZE).requires_grad_()
    logits = half.logits(batch, Edit(site, value, mode=mode))
    logits[:, -1].float().square().sum().backward()
    assert logits.dtype == torch.bfloat16 and value.grad.dtype == torch.float32
    full = noise(4, SIZE).requires_grad_()
    shared_lm("llama").logits(batch, Edit(site, full))[:, -1].square().sum().backward()
    assert torch.cosine_similarity(value.grad, full.grad).min() > 0.99
    own = half.read(batch, site)[site][:, -1]
    assert torch.equal(half.logits(batch, Edit(site, own.float())), half.logits(batch))


# What cannot work.


def test_a_vocabulary_that_does_not_match_is_named(lm: FrozenLM) -> None:
    lm.require_vocabulary(VOCABULARY - 1)
    with pytest.raises(BadInput, match=f"tiny-llama, which has {VOCABULARY} tokens") as caught:
        lm.require_vocabulary(VOCABULARY, "continuation_ids")
    assert (caught.value.field, caught.value.value) == ("continuation_ids", VOCABULARY)


def test_rows_too_long_for_the_model_are_refused_everywhere(any_lm: FrozenLM) -> None:
    batch = padded_batch((128, 3), horizon=1)
    longer = padded_batch((129, 3))
    soft = Edit("embed", torch.zeros(1, SIZE), mode="prepend")
    assert any_lm.prefix(batch).logits().shape == any_lm.logits(batch, keep=1).shape
    for attempt in (
        lambda: any_lm.read(longer, "embed"),
        lambda: any_lm.logits(longer),
        lambda: any_lm.logits(batch, soft),
        lambda: any_lm.prefix(longer),
        lambda: any_lm.prefix(batch).logits(horizon=1),
    ):
        with pytest.raises(BadInput, match=r"129 columns.*takes at most 128"):
            attempt()


def test_moving_to_a_device_gives_the_same_lm() -> None:
    lm = tiny_lm("gpt2")
    assert lm.to("cpu") is lm and len(blocks_of(lm.model)) == lm.num_layers
