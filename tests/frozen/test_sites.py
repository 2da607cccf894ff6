"""The grammar of sites, and that every architecture's row of ANATOMY points at the right modules."""

from __future__ import annotations

import itertools
import random
from fractions import Fraction

import numpy as np
import pytest
import torch
from tiny import TINY_CONFIGS, padded_batch, shared_lm, tiny_model

from consistency_lens.errors import BadInput
from consistency_lens.frozen import Edit, FrozenLM, Site
from consistency_lens.frozen.anatomy.parts import ANATOMY, Port, blocks_of, locate
from consistency_lens.frozen.sites import LAYERED, STAGES, resolve_sites


@pytest.mark.parametrize("stage", LAYERED)
@pytest.mark.parametrize(
    ("written", "layer"),
    [("0", 0), ("3", 3), ("-1", 3), ("-4", 0), ("0/1", 0), ("1/4", 1), ("1/3", 1), ("1/2", 2), ("2/3", 2), ("1/1", 3)],
)
def test_every_way_to_write_a_layer_resolves_to_a_number(stage: str, written: str, layer: int) -> None:
    site = Site.parse(f"{stage}.{written}").resolve(num_layers=4)
    assert site == Site(stage, layer)
    assert str(site) == f"{stage}.{layer}"
    assert Site.parse(str(site)) == site == site.resolve(4)


def test_embed_has_no_layer() -> None:
    assert Site.parse(" embed ") == Site("embed") == Site("embed").resolve(4)
    assert str(Site("embed")) == "embed"


def test_a_fraction_means_the_same_depth_in_every_model() -> None:
    for layers in range(1, 65):
        resolved = [Site.parse(f"resid_post.{i}/6").resolve(layers).layer for i in range(7)]
        assert resolved == sorted(resolved) and resolved[0] == 0 and resolved[-1] == layers - 1
    assert Site.parse("resid_post.2/3") == Site("resid_post", Fraction(2, 3))
    assert str(Site.parse("resid_post.4/6")) == "resid_post.2/3"


@pytest.mark.parametrize(
    "text",
    [
        *["", "embed.0", "resid_post", "resid_post.", "resid_post.x", "resid_post.1.5", "resid_post.1/0"],
        *["resid_post.-1/2", "resid_post.3/2", "resid.3", "mlp.3", "Resid_post.3", "resid_post.3 mlp_in.2", "logits"],
    ],
)
def test_an_unknown_site_names_field_value_and_fix(text: str) -> None:
    with pytest.raises(BadInput) as caught:
        Site.parse(text)
    assert (caught.value.field, caught.value.value) == ("site", text)
    assert "Write" in caught.value.fix and repr(text) in str(caught.value)


@pytest.mark.parametrize("layer", [4, 17, -5])
def test_an_unknown_layer_names_field_value_and_fix(lm: FrozenLM, layer: int) -> None:
    with pytest.raises(BadInput, match=r"has 4 layers: use 0 to 3, or -4 to -1") as caught:
        lm.read(padded_batch(), f"resid_post.{layer}")
    assert (caught.value.field, caught.value.value) == ("site", f"resid_post.{layer}")


def test_sites_sort_in_the_order_of_the_forward_pass() -> None:
    ordered = [Site("embed")] + [Site(stage, layer) for layer in range(3) for stage in LAYERED]
    shuffled = ordered * 2
    for seed in range(20):
        random.Random(seed).shuffle(shuffled)
        assert resolve_sites(shuffled, 3) == ordered
    assert resolve_sites("mlp_in.-1", 3) == [Site("mlp_in", 2)]
    assert all(a < b and not b < a for a, b in itertools.combinations(ordered, 2))


def test_sites_that_are_the_same_place_are_read_once() -> None:
    assert resolve_sites(["mlp_in.-1", "mlp_in.3", "mlp_in.1/1", Site("mlp_in", 3)], 4) == [Site("mlp_in", 3)]


def test_no_site_at_all_is_an_error() -> None:
    with pytest.raises(BadInput, match="Name at least one site"):
        resolve_sites([], 4)


@pytest.mark.parametrize("text", ["resid_post.-1", "resid_post.1/2"])
def test_an_unresolved_site_has_no_depth(text: str) -> None:
    with pytest.raises(BadInput, match=r"Call resolve\(num_layers\) first"):
        _ = Site.parse(text).depth


def test_every_taught_architecture_is_tested() -> None:
    assert {model_type for model_type, _ in TINY_CONFIGS.values()} == set(ANATOMY)


def test_residual_stream_is_the_sum_of_what_is_added_to_it(any_lm: FrozenLM) -> None:
    batch, layers = padded_batch(), range(any_lm.num_layers)
    found = any_lm.read(batch, any_lm.sites)
    own = batch["attention_mask"].bool()
    for i in layers:
        parts = [found[f"{stage}.{i}"][own] for stage in ("resid_pre", "attn_out", "mlp_out")]
        assert all(part.abs().max() > 1e-3 for part in parts)
        torch.testing.assert_close(sum(parts), found[f"resid_post.{i}"][own], rtol=1e-5, atol=1e-5)
        if f"resid_mid.{i}" in found:
            mid = found[f"resid_mid.{i}"][own]
            assert torch.equal(mid, parts[0] + parts[1])
            torch.testing.assert_close(mid + parts[2], found[f"resid_post.{i}"][own], rtol=0, atol=0)
        if i:
            assert torch.equal(found[f"resid_pre.{i}"], found[f"resid_post.{i - 1}"])


def test_the_mlp_turns_mlp_in_into_mlp_out(any_lm: FrozenLM) -> None:
    found = any_lm.read(padded_batch(), [f"{stage}.{i}" for stage in ("mlp_in", "mlp_out") for i in range(4)])
    anatomy = ANATOMY[any_lm.model.config.model_type]
    for i, block in enumerate(blocks_of(any_lm.model)):
        out = block.get_submodule(anatomy.mlp_in)(found[f"mlp_in.{i}"])
        if anatomy.mlp_out != anatomy.mlp_in:
            out = block.get_submodule(anatomy.mlp_out)(out)
        assert torch.equal(out, found[f"mlp_out.{i}"])


def test_embed_is_what_inputs_embeds_replaces(any_lm: FrozenLM) -> None:
    batch = padded_batch()
    embed = any_lm.read(batch, "embed")["embed"]
    positions = (batch["attention_mask"].cumsum(1) - 1).clamp_min(0)
    by_hand = any_lm.model(
        inputs_embeds=embed, attention_mask=batch["attention_mask"], position_ids=positions, use_cache=False
    )
    assert torch.equal(by_hand.logits, any_lm.logits(batch))


def test_locate_finds_blocks_in_order() -> None:
    model = tiny_model("gpt2")
    for i, block in enumerate(blocks_of(model)):
        assert locate(model, Site("resid_pre", i)) == Port(block, "input")
        assert locate(model, Site("resid_post", i)) == Port(block, "output")
    assert locate(model, Site("embed")).module is model.get_input_embeddings()


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"mode": "subtract"}, "mode"),
        ({"mode": "prepend", "site": "resid_post.0"}, "site"),
        ({"mode": "prepend", "positions": -2}, "positions"),
        ({"mode": "prepend", "positions": torch.tensor([1])}, "positions"),
        ({"mode": "prepend", "positions": torch.tensor([1, -1])}, "positions"),
        ({"mode": "prepend", "positions": None}, "positions"),
        ({"site": "nowhere"}, "site"),
    ],
)
def test_an_impossible_edit_is_refused_when_it_is_made(settings: dict, field: str) -> None:
    with pytest.raises(BadInput) as caught:
        Edit(**({"site": "embed", "value": torch.zeros(1, 32)} | settings))
    assert caught.value.field == field


def test_an_edit_parses_its_site_and_soft_tokens_stand_in_front() -> None:
    assert Edit("mlp_out.-1", torch.zeros(2)).site == Site("mlp_out", -1)
    assert Edit("embed", torch.zeros(1, 2), mode="prepend").positions == 0
    assert Edit("embed", torch.zeros(1, 2), 1, "prepend").positions == 1


@pytest.mark.parametrize(
    ("stage", "layer"),
    [
        *[("bogus", 1), ("bogus", None), ("", 0), ("embed", 1), ("embed", 0), ("resid_post", None)],
        *[("resid_post", 1.0), ("resid_post", True), ("resid_post", "1"), ("mlp_in", Fraction(3, 2))],
        ("mlp_in", Fraction(-1, 2)),
    ],
)
def test_a_site_that_cannot_be_is_refused_when_it_is_made(stage: str, layer: object) -> None:
    with pytest.raises(BadInput) as caught:
        Site(stage, layer)
    assert (caught.value.field, caught.value.value) == ("site", stage if layer is None else f"{stage}.{layer}")


def test_a_stage_nobody_placed_is_not_taken_for_another() -> None:
    site = Site("mlp_out", 1)
    object.__setattr__(site, "stage", "bogus")
    with pytest.raises(BadInput, match="no one has said where") as caught:
        locate(tiny_model("gpt2"), site)
    assert (caught.value.field, caught.value.value) == ("site", "bogus.1")


@pytest.mark.parametrize("mode", ["replace", "prepend"])
@pytest.mark.parametrize("value", [np.zeros((1, 32)), [0.0] * 32, torch.tensor(1.0), torch.zeros(1, 1, 1, 32), None])
def test_a_value_that_is_no_tensor_of_vectors_is_refused(value: object, mode: str) -> None:
    with pytest.raises(BadInput, match="one to three dimensions") as caught:
        Edit("embed", value, mode=mode)
    assert caught.value.field == "value"


@pytest.mark.parametrize("mode", ["replace", "add", "prepend"])
@pytest.mark.parametrize(
    "positions",
    [
        *[1.0, True, "1", np.array([1, 2]), [1, 2], torch.tensor([1.0]), torch.tensor([True])],
        torch.zeros(1, 1, 1, dtype=torch.long),
    ],
    ids=repr,
)
def test_positions_that_are_no_whole_numbers_are_refused(positions: object, mode: str) -> None:
    with pytest.raises(BadInput) as caught:
        Edit("embed", torch.zeros(1, 32), positions, mode)
    assert caught.value.field == "positions"


def test_stages_of_the_tiny_models_differ(lm: FrozenLM) -> None:
    found = list(lm.read(padded_batch(), [f"{stage}.1" for stage in LAYERED]).values())
    assert len(found) == len(STAGES) - 1
    assert all(not torch.allclose(a, b) for a, b in itertools.combinations(found, 2))
    assert shared_lm("llama") is lm
