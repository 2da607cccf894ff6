"""The residual stream between attention and the MLP: read, edited, computed, and refused where there is none."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from architectures import tiny_causal_lm
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TINY_CONFIGS, padded_batch, shared_lm, tiny_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from consistency_lens.errors import BadInput
from consistency_lens.frozen import Edit, FrozenLM, Site, editing, reading
from consistency_lens.frozen.anatomy.parts import proven_of
from consistency_lens.frozen.hooks import Write

SIZE = 32
Read = Mapping[str, torch.Tensor]
# Among the second: a multiplier, sums in place, no norm before the MLP, vectors without rows.
SERIAL = [case for case in TINY_CONFIGS if case not in ("gpt_neox",) and not case.endswith("-window")]
FOUND = ("mixtral", "granite", "bloom", "mpt", "olmo3", "glm4_moe", "opt", "llama4_text")


def found(model_type: str) -> FrozenLM:
    model = tiny_causal_lm(model_type)
    assert isinstance(model, PreTrainedModel), model
    return FrozenLM(model, tiny_tokenizer())


@pytest.fixture(scope="module", params=[*SERIAL, *FOUND])
def serial(request: pytest.FixtureRequest) -> FrozenLM:
    return found(request.param) if request.param in FOUND else shared_lm(request.param)


def scale(lm: FrozenLM) -> tuple[float, float]:
    return proven_of(lm.model)[1].scale if proven_of(lm.model) else (1.0, 1.0)


def flowing(lm: FrozenLM, edits: list[Edit]) -> dict[str, torch.Tensor]:
    """What one pass with the edits has at the sites of block 1."""
    batch = padded_batch()
    writes = [lm.place(edit, batch["input_ids"]) for edit in edits]
    sites = [
        lm.site(f"{stage}.1") for stage in ("resid_pre", "attn_out", "resid_mid", "mlp_in", "mlp_out", "resid_post")
    ]
    with torch.no_grad(), editing(lm.model, writes), reading(lm.model, sites) as seen:
        lm.model(**lm.inputs(batch), use_cache=False)
    return seen


@pytest.mark.parametrize("columns", [None, torch.tensor([[2, 11], [6, 10], [11, 11], [4, 5]])], ids=["all", "chosen"])
@pytest.mark.parametrize("mode", ["replace", "add"])
def test_what_is_written_is_what_both_ways_go_on_with(
    serial: FrozenLM, mode: str, columns: torch.Tensor | None
) -> None:
    """The value itself stands there, bit for bit, and the block gives out the value plus the MLP's output."""
    count = 12 if columns is None else 2
    value = torch.randn(4, count, SIZE, generator=torch.Generator().manual_seed(2))
    clean, edited = flowing(serial, []), flowing(serial, [Edit("resid_mid.1", value, columns, mode)])
    whole = torch.arange(12).expand(4, 12) if columns is None else columns
    rows = torch.arange(4).unsqueeze(1)
    mid = clean["resid_mid.1"]
    # As many times as a column is named.
    wanted = mid.index_put((rows, whole), value, accumulate=mode == "add")
    assert torch.equal(edited["resid_mid.1"], wanted)
    torch.testing.assert_close(
        edited["resid_post.1"], wanted + scale(serial)[1] * edited["mlp_out.1"], rtol=1e-6, atol=1e-6
    )
    assert torch.equal(edited["attn_out.1"], clean["attn_out.1"])
    assert torch.equal(edited["resid_pre.1"], clean["resid_pre.1"])
    assert (edited["mlp_in.1"] - clean["mlp_in.1"])[rows, whole].abs().max() > 1e-3


def test_it_is_what_enters_the_norm(lm: FrozenLM) -> None:
    seen = []
    norm = lm.model.model.layers[2].post_attention_layernorm
    handle = norm.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    lm.read(padded_batch(), "resid_post.2")
    handle.remove()
    assert torch.equal(lm.read(padded_batch(), "resid_mid.2")["resid_mid.2"], seen[0])


def by_hand(lm: FrozenLM, layer: int, value: Callable[[Read], torch.Tensor]) -> torch.Tensor:
    """The logits with the layer's MLP and norm run by plain calls, on a stream that a hook in front computes."""
    block, kept, inside = lm.model.model.layers[layer], {}, {}

    def keep(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        kept[f"resid_mid.{layer}"] = args[0]

    def replace(module: torch.nn.Module, args: object, output: torch.Tensor) -> torch.Tensor | None:
        if inside:  # the plain calls below come by here, too
            return None
        inside["now"] = True
        mid = value(kept)
        return mid + block.mlp(block.post_attention_layernorm(mid))

    handles = [
        block.post_attention_layernorm.register_forward_pre_hook(keep),
        block.register_forward_hook(replace),
    ]
    logits = lm.logits(padded_batch())
    for handle in handles:
        handle.remove()
    return logits


@pytest.mark.parametrize("layer", [0, 3])
def test_it_equals_plain_hooks_in_values_and_gradients(lm: FrozenLM, layer: int) -> None:
    turn = (torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(4)) / SIZE**0.5).requires_grad_()
    site = f"resid_mid.{layer}"
    weight = torch.randn(4, 12, lm.vocab_size, generator=torch.Generator().manual_seed(5))

    def value(read: Read) -> torch.Tensor:
        return torch.tanh(read[site] @ turn) + read[site]

    mine, theirs = lm.logits(padded_batch(), Edit(site, value, None, reads=(site,))), by_hand(lm, layer, value)
    assert torch.equal(mine, theirs)
    (ours,), (others,) = (
        torch.autograd.grad((logits.log_softmax(-1) * weight).sum(), [turn]) for logits in (mine, theirs)
    )
    torch.testing.assert_close(ours, others, rtol=1e-5, atol=1e-6 * float(others.abs().max()))


def test_mlps_are_computed_from_it(lm: FrozenLM) -> None:
    """As a crosslayer transcoder does: each MLP's output from the stream in front of the MLPs up to it."""
    maps = [torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(i)) / SIZE**0.5 for i in range(4)]
    maps = [turn.requires_grad_() for turn in maps]

    def replaced(layer: int) -> Edit:
        names = tuple(f"resid_mid.{i}" for i in range(layer + 1))
        return Edit(
            f"mlp_out.{layer}",
            lambda read: sum(torch.relu(read[name] @ maps[i]) for i, name in enumerate(names)),
            None,
            reads=names,
        )

    batch = padded_batch()
    mine = lm.logits(batch, [replaced(i) for i in range(4)])
    seen, handles = {}, []
    for i, block in enumerate(lm.model.model.layers):

        def keep(module: torch.nn.Module, args: tuple[torch.Tensor, ...], i: int = i) -> None:
            seen[f"resid_mid.{i}"] = args[0]

        def write(module: torch.nn.Module, args: object, output: torch.Tensor, i: int = i) -> torch.Tensor:
            return sum(torch.relu(seen[f"resid_mid.{j}"] @ maps[j]) for j in range(i + 1))

        handles.append(block.post_attention_layernorm.register_forward_pre_hook(keep))
        handles.append(block.mlp.register_forward_hook(write))
    theirs = lm.logits(batch)
    for handle in handles:
        handle.remove()
    assert torch.equal(mine, theirs)
    ours, others = (torch.autograd.grad(logits.square().sum(), maps) for logits in (mine, theirs))
    for one, other in zip(ours, others, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))


@pytest.mark.parametrize("case", ["olmo2", "llama"])
def test_the_mlps_input_is_edited_behind_it_in_whatever_order_they_are_given(case: str) -> None:
    """OLMo 2 has no norm before its MLP: both sites are the input of one module."""
    lm, batch = shared_lm(case), padded_batch()
    mid = Edit("resid_mid.1", torch.full((SIZE,), 2.0), None)
    mlp = Edit(
        "mlp_in.1", lambda read: 3 * read["mlp_in.1"] + read["resid_mid.1"], None, reads=("mlp_in.1", "resid_mid.1")
    )
    assert torch.equal(lm.logits(batch, [mid, mlp]), lm.logits(batch, [mlp, mid]))
    only, both = flowing(lm, [mid]), flowing(lm, [mlp, mid])
    assert torch.equal(both["resid_mid.1"], torch.full((4, 12, SIZE), 2.0))
    assert torch.equal(both["mlp_in.1"], 3 * only["mlp_in.1"] + 2)


@pytest.mark.parametrize("case", ["olmo2", "llama"])
def test_the_mlps_input_is_edited_behind_it_however_they_nest(case: str) -> None:
    lm, batch = shared_lm(case), padded_batch()
    mid = Edit("resid_mid.1", torch.full((SIZE,), 2.0), None, "add")
    mlp = Edit("mlp_in.1", lambda read: 3 * read["mlp_in.1"], None, reads=("mlp_in.1",))
    wanted = lm.logits(batch, [mid, mlp])
    for outer, inner in ((mid, mlp), (mlp, mid)):
        first, second = ([lm.place(edit, batch["input_ids"])] for edit in (outer, inner))
        with torch.no_grad(), editing(lm.model, first), editing(lm.model, second):
            assert torch.equal(lm.model(**lm.inputs(batch), use_cache=False).logits, wanted)
    with torch.no_grad():
        assert not torch.equal(lm.model(**lm.inputs(batch), use_cache=False).logits, wanted)


def test_a_compiled_model_is_edited_where_vectors_come_without_rows() -> None:
    plain, compiled, batch = found("opt"), found("opt").compile(backend="eager"), padded_batch((5, 3))
    turn = torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    edits = [
        Edit("resid_mid.0", torch.ones(SIZE)),
        Edit(
            "mlp_out.1",
            lambda read: read["resid_mid.1"] @ turn + read["mlp_in.1"],
            None,
            reads=("resid_mid.1", "mlp_in.1"),
        ),
    ]
    torch.testing.assert_close(compiled.logits(batch, edits), plain.logits(batch, edits))
    assert not torch.allclose(plain.logits(batch, edits), plain.logits(batch))
    torch._dynamo.reset()


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(["llama", "gpt2", "olmo2"]), st.integers(0, 3), st.integers(0, 10_000), st.booleans())
def test_its_own_activation_changes_no_logit(case: str, layer: int, seed: int, cheap: bool) -> None:
    lm, batch, site = shared_lm(case), padded_batch(seed=seed), f"resid_mid.{layer}"
    pass_of = lm.prefix(batch) if cheap else None
    if pass_of is not None:
        own = pass_of.read(site)[site]
        assert torch.equal(pass_of.logits(Edit(site, own)), pass_of.logits())
        same = Edit(site, lambda read: read[site], reads=(site,))
        assert torch.equal(pass_of.logits(same), pass_of.logits())
    else:
        own = lm.read(batch, site)[site]
        assert torch.equal(lm.logits(batch, Edit(site, own, None)), lm.logits(batch))
        assert torch.equal(lm.logits(batch, Edit(site, torch.zeros(SIZE), None, "add")), lm.logits(batch))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_it_is_proven_and_exact_in_half_precision(dtype: torch.dtype) -> None:
    model = tiny_causal_lm("granite")
    assert isinstance(model, PreTrainedModel)
    for weight in model.parameters():
        weight.data *= 5 if weight.dim() > 1 else 1  # else rounding hides what the MLP adds
    lm, batch = FrozenLM(model.to(dtype), tiny_tokenizer()), padded_batch()
    own = lm.read(batch, "resid_mid.1")["resid_mid.1"]
    assert torch.equal(lm.logits(batch, Edit("resid_mid.1", own, None)), lm.logits(batch))
    value = torch.randn(4, SIZE, requires_grad=True)
    lm.logits(batch, Edit("resid_mid.1", value), keep=1).float().square().sum().backward()
    assert value.grad.abs().amax(-1).min() > 0


@pytest.mark.parametrize("model_type", ["gptj", "falcon", "cohere", "phi", "codegen"])
def test_a_model_whose_attention_and_mlp_run_in_parallel_has_none(model_type: str) -> None:
    lm = found(model_type)
    assert "mlp_in.1" in lm.sites and "resid_mid.1" not in lm.sites
    with pytest.raises(BadInput, match="attention and the MLP run in parallel") as caught:
        lm.read(padded_batch(), "resid_mid.1")
    assert (caught.value.field, caught.value.value) == ("site", "resid_mid.1")


def test_a_row_by_hand_asks_the_configuration() -> None:
    assert "resid_mid.1" in shared_lm("gpt_neox-serial").sites and "resid_mid.1" not in shared_lm("gpt_neox").sites
    with pytest.raises(BadInput, match=r"run in parallel.*Use resid_pre\.1"):
        shared_lm("gpt_neox").logits(padded_batch(), Edit("resid_mid.1", torch.zeros(SIZE)))


def test_where_attention_is_not_proven_neither_is_what_comes_behind_it() -> None:
    with pytest.raises(BadInput, match="not proven for bert: the best pair"):
        found("bert").read(padded_batch(), "resid_mid.1")


class CopiedLayer(LlamaDecoderLayer):
    """A block whose norm is given a copy of the residual stream, so that no edit of it reaches the stream itself."""

    def forward(self, hidden_states: torch.Tensor, **kwargs: object) -> torch.Tensor:
        residual = hidden_states + self.self_attn(hidden_states=self.input_layernorm(hidden_states), **kwargs)[0]
        return residual + self.mlp(self.post_attention_layernorm(residual.clone()))


class CopiedConfig(LlamaConfig):
    model_type = "copied"


class MlpFirstLayer(LlamaDecoderLayer):
    """A block in parallel whose MLP runs before its attention."""

    def forward(self, hidden_states: torch.Tensor, **kwargs: object) -> torch.Tensor:
        mlp = self.mlp(self.post_attention_layernorm(hidden_states))
        return hidden_states + mlp + self.self_attn(hidden_states=self.input_layernorm(hidden_states), **kwargs)[0]


def of_layers(kind: type[LlamaDecoderLayer]) -> FrozenLM:
    torch.manual_seed(0)
    config = CopiedConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, vocab_size=96
    )
    model = LlamaForCausalLM(config)
    for i in range(2):
        model.model.layers[i] = kind(config, i)
    return FrozenLM(model, tiny_tokenizer())


def test_attention_is_what_mixes_positions_and_not_what_runs_first() -> None:
    lm = of_layers(MlpFirstLayer)
    for layer, block in enumerate(proven_of(lm.model)):
        assert (block.ports["attn_out"].path, block.ports["mlp_out"].path) == ("self_attn", "mlp"), layer
    with pytest.raises(BadInput, match="run in parallel"):
        lm.read(padded_batch(), "resid_mid.1")


def test_a_norm_that_is_given_a_copy_is_noticed() -> None:
    lm = of_layers(CopiedLayer)
    assert "mlp_in.1" in lm.sites
    with pytest.raises(BadInput, match="does not reach what the block adds to"):
        lm.read(padded_batch(), "resid_mid.0")


def test_hooks_see_a_copy_and_leave_nothing_behind(lm: FrozenLM) -> None:
    clean = lm.logits(padded_batch())
    with editing(lm.model, [Write(Site("resid_mid", 1), torch.ones(4, 12, SIZE), None, False)]):
        assert not torch.equal(lm.logits(padded_batch()), clean)
    assert torch.equal(lm.logits(padded_batch()), clean)
