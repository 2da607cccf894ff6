"""Where the parts of any causal LM lie is found, proven, and refused where it is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from architectures import MODEL_TYPES, offers, table, tiny_causal_lm
from tiny import padded_batch, shared_lm, tiny_model, tiny_tokenizer
from transformers import PreTrainedModel
from twins import judged

from consistency_lens.errors import BadInput
from consistency_lens.frozen import Edit, FrozenLM, Prefix
from consistency_lens.frozen.anatomy.parts import ANATOMY, INNER, blocks_of, locate, proven_of
from consistency_lens.frozen.anatomy.proving import prove
from consistency_lens.frozen.sites import Site

SERVED = [
    *["mixtral", "qwen3_moe", "gpt_oss", "glm4_moe", "deepseek_v2", "deepseek_v3", "falcon", "cohere", "granite"],
    *["bloom", "stablelm", "starcoder2", "smollm3", "olmo3", "gptj", "phi", "xglm", "opt", "llama4_text"],
]


def served(model_type: str) -> FrozenLM:
    model = tiny_causal_lm(model_type)
    assert isinstance(model, PreTrainedModel), model
    return FrozenLM(model, tiny_tokenizer())


def prefix_of(lm: FrozenLM, batch: dict[str, torch.Tensor]) -> Prefix | None:
    """The prefix of some rows, or None for a model that is served by whole passes alone."""
    try:
        return lm.prefix(batch)
    except BadInput as refused:
        assert "whole passes" in refused.fix and refused.field == "model_type"
        return None


def require_exact(lm: FrozenLM) -> None:
    """All sites are read, the sums hold, an activation in its own place changes nothing, and the single-token swap,
    where it is offered, equals the whole pass in values and gradients."""
    batch = padded_batch((9, 6, 8))
    own = batch["attention_mask"].bool()
    found = lm.read(batch, lm.sites)
    assert list(found) == lm.sites
    for layer, block in enumerate(proven_of(lm.model)):
        if {"attn_out", "mlp_out"} <= block.ports.keys():
            pre, attn, mlp, post = (
                found[f"{stage}.{layer}"][own] for stage in ("resid_pre", "attn_out", "mlp_out", "resid_post")
            )
            added = block.scale[0] * attn + block.scale[1] * mlp
            assert (post - pre - added).norm() <= 2e-3 * (post - pre).norm()
            assert min(attn.norm(), mlp.norm()) > 1e-6 * post.norm()
            if "resid_mid" in block.ports:
                mid = found[f"resid_mid.{layer}"][own]
                assert (mid - pre - block.scale[0] * attn).norm() <= 1e-5 * mid.norm()
    whole, clean = lm.logits(batch), lm.logits(batch, keep=1)
    with torch.no_grad():
        changed = [
            site for site in lm.sites if not torch.equal(lm.logits(batch, Edit(site, found[site], None)), whole)
        ]
    assert not changed
    prefix, last = prefix_of(lm, batch), len(blocks_of(lm.model)) - 1
    for site in [name for name in lm.sites if name.endswith((".1", f".{last}")) or name == "embed"]:
        value = torch.randn(len(own), lm.hidden_size, generator=torch.Generator().manual_seed(3)).requires_grad_()
        edit = Edit(site, value)
        slow, (slow_gradient,) = judged(lm.logits(batch, edit, keep=1), [value])
        size = slow.abs().max()
        assert (slow - clean).abs().max() > 1e-6 * size and slow_gradient.norm() > 0, f"{site} is read by nobody"
        if prefix is not None:
            fast, (fast_gradient,) = judged(prefix.logits(edit), [value])
            assert fast.shape == slow.shape and (fast - slow).abs().max() <= 1e-4 * size, site
            assert (fast_gradient - slow_gradient).norm() <= 1e-3 * slow_gradient.norm(), site


@pytest.mark.parametrize("model_type", SERVED)
def test_an_architecture_without_a_row_is_served_at_all_sites(model_type: str) -> None:
    assert model_type not in ANATOMY
    lm = served(model_type)
    assert offers(lm) == "all"
    require_exact(lm)


@pytest.mark.parametrize("case", ["gpt2", "gpt_neox", "llama", "gemma2", "olmo2", "phi3", "qwen3"])
def test_the_search_finds_what_the_rows_say(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    twin, model = shared_lm(case), tiny_model(case).eval()
    layers = range(model.config.num_hidden_layers)
    by_hand = {stage: [locate(model, Site(stage, i)) for i in layers] for stage in ("attn_out", "mlp_in", "mlp_out")}
    monkeypatch.delitem(ANATOMY, model.config.model_type)
    prove(model)
    lm = FrozenLM(model, tiny_tokenizer())
    batch, names = padded_batch(), [f"{stage}.{i}" for stage in by_hand for i in layers]
    assert proven_of(model) and not proven_of(twin.model)
    found = lm.read(batch, names)
    monkeypatch.undo()
    expected = twin.read(batch, names)
    assert all(torch.equal(found[name], expected[name]) for name in names)


@pytest.mark.parametrize("model_type", ["bloom", "opt", "mixtral", "granite", "gptj", "xglm"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_a_stream_of_thousands_at_one_position_hide_nothing(
    model_type: str, dtype: torch.dtype
) -> None:
    """As in trained models: beside the first token's vector what attention adds is below all rounding."""
    model = tiny_causal_lm(model_type)
    assert isinstance(model, PreTrainedModel), model
    exact = FrozenLM(model, tiny_tokenizer()).sites
    ports = [block.ports for block in proven_of(model)]
    again = tiny_causal_lm(model_type)
    assert isinstance(again, PreTrainedModel)
    for weight in again.parameters():
        weight.data *= 5 if weight.dim() > 1 else 1

    def grow(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        first = torch.zeros_like(args[0])
        first[:, 0, 3] = 1000
        return (args[0] + first, *args[1:])

    grown = blocks_of(again)[0].register_forward_pre_hook(grow)
    lm = FrozenLM(again.to(dtype), tiny_tokenizer())
    grown.remove()
    assert lm.sites == exact
    assert [block.ports for block in proven_of(again)] == ports


def test_one_pair_that_explains_nothing_is_refused_with_the_gap() -> None:
    lm = served("bert")
    assert lm.sites == ["embed", *(f"resid_{end}.{i}" for i in range(3) for end in ("pre", "post"))]
    require_exact(lm)
    with pytest.raises(BadInput, match=r"not proven for bert: the best pair .* leaves [\d.]+ of what a block adds"):
        lm.read(padded_batch(), "attn_out.1")


def test_a_state_space_model_is_read_and_edited_by_whole_passes() -> None:
    lm, batch = served("mamba"), padded_batch((5, 5))
    assert "resid_post.1" in lm.sites and not any(name.startswith(INNER) for name in lm.sites)
    with pytest.raises(BadInput, match=r"one module alone \(mixer\) writes all that a block adds"):
        lm.read(batch, "mlp_out.1")
    with pytest.raises(BadInput, match="a state that each token changes in place") as caught:
        lm.prefix(batch)
    assert (caught.value.field, caught.value.value) == ("model_type", "mamba")
    edited = lm.logits(batch, Edit("resid_post.1", torch.ones(lm.hidden_size), None))
    assert not torch.allclose(edited, lm.logits(batch))


@pytest.mark.parametrize(
    ("model_type", "why"),
    [("cpmant", "earlier positions see later ones"), ("hrm_text", "no list of"), ("deepseek_v4", "its blocks do not")],
)
def test_a_model_that_is_not_what_it_has_to_be_is_refused(model_type: str, why: str) -> None:
    with pytest.raises(BadInput, match=why) as caught:
        served(model_type)
    assert (caught.value.field, caught.value.value) == ("model_type", model_type)


def test_an_embedding_of_another_size_is_no_site() -> None:
    lm = served("electra")
    assert "embed" not in lm.sites and "resid_pre.0" in lm.sites
    with pytest.raises(BadInput, match=r"Use resid_pre\.0"):
        lm.read(padded_batch(), "embed")


def test_a_row_by_hand_overrides_the_search() -> None:
    assert shared_lm("llama").sites and not proven_of(shared_lm("llama").model)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_what_is_offered_of_any_causal_lm_of_transformers_is_exact(model_type: str) -> None:
    model = tiny_causal_lm(model_type)
    if isinstance(model, str):
        pytest.skip(model)
    try:
        lm = FrozenLM(model, tiny_tokenizer())
    except BadInput as refused:
        assert refused.field == "model_type"
        return
    require_exact(lm)


@pytest.mark.slow
def test_the_page_says_what_is_offered() -> None:
    """At least 130 types with the residual stream, at least 110 with all sites."""
    page = table()
    cells = [[cell.strip() for cell in row.split("|")] for row in page.splitlines() if row.startswith("| `")]
    served = [row for row in cells if row[2] != "refused"]
    assert len(served) >= 130
    assert sum(row[2] == "all" for row in served) >= 110 and sum(row[3] == "yes" for row in served) >= 100
    assert sum(row[4] == "single token" for row in served) >= 120
    assert page == Path("docs/architectures.md").read_text(), "run PYTHONPATH=tests python tests/architectures.py"
