"""Edits computed inside the pass: a list of replaced MLPs, each a function of what flows below it in the same pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
from architectures import tiny_causal_lm
from by_hand import llama_rows, own_rows
from tiny import padded_batch, shared_lm, tiny_lm, tiny_tokenizer
from transformers import PreTrainedModel

from consistency_lens.errors import BadInput
from consistency_lens.frozen import Edit, FrozenLM
from consistency_lens.frozen.anatomy.parts import locate
from consistency_lens.frozen.sites import Site

SIZE = 32
Read = Mapping[str, torch.Tensor]


def weights(count: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(SIZE, SIZE, generator=generator) / SIZE**0.5).requires_grad_() for _ in range(count)]


def replacement(layer: int, maps: Sequence[torch.Tensor]) -> Callable[[Read], torch.Tensor]:
    """What stands for the MLP of a layer: a sum over the inputs of all MLPs up to it."""
    return lambda read: sum(torch.relu(read[f"mlp_in.{i}"] @ maps[i]) for i in range(layer + 1))


def all_mlps(maps: Sequence[torch.Tensor], positions: int | torch.Tensor | None = None) -> list[Edit]:
    return [
        Edit(f"mlp_out.{i}", replacement(i, maps), positions, reads=tuple(f"mlp_in.{j}" for j in range(i + 1)))
        for i in range(len(maps))
    ]


def hooked_by_hand(
    model: PreTrainedModel, maps: Sequence[torch.Tensor], run: Callable[[], torch.Tensor]
) -> torch.Tensor:
    """The same with plain hooks: inputs are kept as they come by, outputs replaced."""
    seen, handles = {}, []
    for i in range(len(maps)):
        reads, writes = locate(model, Site("mlp_in", i)), locate(model, Site("mlp_out", i))

        def keep(module: torch.nn.Module, args: tuple, i: int = i) -> None:
            seen[f"mlp_in.{i}"] = args[0]

        def write(module: torch.nn.Module, args: tuple, output: torch.Tensor, i: int = i) -> torch.Tensor:
            return replacement(i, maps)(seen)

        handles.append(reads.module.register_forward_pre_hook(keep))
        handles.append(writes.module.register_forward_hook(write))
    logits = run()
    for handle in handles:
        handle.remove()
    return logits


def gradients(logits: torch.Tensor, maps: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    weight = torch.randn(logits.shape, generator=torch.Generator().manual_seed(5))
    return torch.autograd.grad((logits.log_softmax(-1) * weight).sum(), maps)


def test_all_mlps_replaced_in_one_pass_equal_plain_hooks(any_lm: FrozenLM) -> None:
    batch, maps = padded_batch(), weights(any_lm.num_layers)
    mine = any_lm.logits(batch, all_mlps(maps))
    theirs = hooked_by_hand(any_lm.model, maps, lambda: any_lm.logits(batch))
    assert torch.equal(mine, theirs)
    for own, other in zip(gradients(mine, maps), gradients(theirs, maps), strict=True):
        # Not bit for bit: what is read is a copy, and gradients are summed in another order where MLPs share inputs.
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6 * float(other.abs().max()))
    # What the untouched pass reads is something else: the values really come from the edited one.
    clean = any_lm.read(batch, [f"mlp_in.{i}" for i in range(any_lm.num_layers)])
    fixed = [Edit(f"mlp_out.{i}", replacement(i, maps)(clean), None) for i in range(any_lm.num_layers)]
    assert (any_lm.logits(batch, fixed) - mine).abs().max() > 1e-2
    assert not torch.equal(any_lm.logits(batch), mine)


def test_a_model_whose_parts_were_found_is_served_too() -> None:
    """Falcon adds attention's output to the MLP's in place, behind the edit."""
    for model_type in ("falcon", "mixtral", "granite"):
        lm, maps, batch = FrozenLM(tiny_causal_lm(model_type), tiny_tokenizer()), weights(3), padded_batch((7, 5))
        mine = lm.logits(batch, all_mlps(maps))
        theirs = hooked_by_hand(lm.model, maps, lambda lm=lm, batch=batch: lm.logits(batch))
        torch.testing.assert_close(mine, theirs)
        value = torch.randn(2, 7, SIZE)
        kept = value.clone()
        lm.logits(batch, Edit("mlp_out.1", value, None))
        assert torch.equal(value, kept)


@pytest.mark.parametrize("mode", ["replace", "add"])
def test_a_few_columns_equal_the_model_written_out_in_tensors(lm: FrozenLM, mode: str) -> None:
    batch, maps = padded_batch((9, 6)), weights(2)
    columns = torch.tensor([[4, 8], [5, 7]])

    def value(read: Read) -> torch.Tensor:
        return read["resid_pre.1"] @ maps[0] + read["mlp_in.2"] @ maps[1]

    edit = Edit("mlp_out.2", value, columns, mode, reads=("resid_pre.1", "mlp_in.2"))
    by_value = Edit("mlp_out.2", value(lm.read(batch, ["resid_pre.1", "mlp_in.2"], columns)), columns, mode)
    mine = lm.logits(batch, edit)
    for row, (found, ids) in enumerate(zip(llama_rows(lm.model, batch, [by_value]), own_rows(batch), strict=True)):
        torch.testing.assert_close(mine[row, -len(ids) :], found, rtol=1e-4, atol=1e-5)


def test_an_edit_of_what_is_there_sees_the_edits_before_it(lm: FrozenLM) -> None:
    batch = padded_batch()
    doubled = Edit("resid_post.1", lambda read: 2 * read["resid_post.1"], None, reads=("resid_post.1",))
    added = Edit("resid_post.1", torch.ones(SIZE), None, "add")
    own = lm.read(batch, "resid_post.1")["resid_post.1"]
    assert torch.equal(lm.logits(batch, [added, doubled]), lm.logits(batch, Edit("resid_post.1", 2 * (own + 1), None)))
    assert torch.equal(lm.logits(batch, [doubled, added]), lm.logits(batch, Edit("resid_post.1", 2 * own + 1, None)))


def test_itself_in_its_own_place_changes_nothing(any_lm: FrozenLM) -> None:
    batch = padded_batch()
    for site in ("resid_pre.2", "attn_out.1", "mlp_in.3", "mlp_out.0"):
        same = Edit(site, lambda read: next(iter(read.values())), None, reads=(site,))
        assert torch.equal(any_lm.logits(batch, same), any_lm.logits(batch))


def test_the_single_token_swap_computes_at_p(any_lm: FrozenLM) -> None:
    batch, maps = padded_batch(horizon=2), weights(any_lm.num_layers)
    edits = all_mlps(maps, -1)
    fast = any_lm.prefix(batch).logits(edits, horizon=2)
    longer = {
        "input_ids": torch.cat([batch["input_ids"], batch["continuation_ids"]], 1),
        "attention_mask": torch.cat([batch["attention_mask"], batch["continuation_mask"]], 1),
    }
    slow = any_lm.logits(longer, all_mlps(maps, batch["input_ids"].shape[1] - 1), keep=3)
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=2e-5)
    for mine, theirs in zip(gradients(fast, maps), gradients(slow, maps), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


def test_beside_soft_tokens_the_columns_are_those_of_the_rows_own_tokens(lm: FrozenLM) -> None:
    batch, maps = padded_batch((6, 6)), weights(4)
    soft = Edit("embed", lm.model.get_input_embeddings().weight[5:8], mode="prepend")
    together = {"input_ids": torch.cat([torch.tensor([[5, 6, 7]] * 2), batch["input_ids"]], 1)}
    own = torch.arange(3, 9).repeat(2, 1)
    torch.testing.assert_close(
        lm.logits(batch, [soft, *all_mlps(maps)]), lm.logits(together, all_mlps(maps, own), keep=6)
    )
    reading_embed = Edit("mlp_out.1", lambda read: read["embed"], None, reads=("embed",))
    with pytest.raises(BadInput, match=r"Read resid_pre\.0 instead"):
        lm.logits(batch, [soft, reading_embed])


def test_a_compiled_model_computes_the_same() -> None:
    batch, maps = padded_batch((5, 4)), weights(4)
    compiled = tiny_lm("llama").compile(backend="eager")
    torch.testing.assert_close(
        compiled.logits(batch, all_mlps(maps)), shared_lm("llama").logits(batch, all_mlps(maps))
    )


def test_hooks_are_gone_after_an_error_in_the_function(lm: FrozenLM) -> None:
    def fails(read: Read) -> torch.Tensor:
        raise RuntimeError("no features today")

    batch, clean = padded_batch(), lm.logits(padded_batch())
    with pytest.raises(RuntimeError, match="no features today"):
        lm.logits(batch, Edit("mlp_out.1", fails, None, reads=("mlp_in.1",)))
    assert torch.equal(lm.logits(batch), clean)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in lm.model.modules())


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"reads": ()}, "reads"),
        ({"value": torch.zeros(SIZE)}, "reads"),
        ({"site": "embed", "mode": "prepend"}, "value"),
        ({"reads": ("nowhere.1",)}, "site"),
    ],
)
def test_an_impossible_computed_edit_is_refused_when_it_is_made(settings: dict, field: str) -> None:
    with pytest.raises(BadInput) as caught:
        Edit(**({"site": "mlp_out.1", "value": lambda read: read, "reads": ("mlp_in.1",)} | settings))
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("edit", "field", "why"),
    [
        (
            Edit("mlp_in.1", lambda read: read["mlp_out.1"], None, reads=("mlp_out.1",)),
            "reads",
            "before the pass",
        ),
        (
            Edit("mlp_out.1", lambda read: read["mlp_in.1"][..., :5], None, reads=("mlp_in.1",)),
            "value",
            "4, 12, 32",
        ),
        (Edit("mlp_out.1", lambda read: None, None, reads=("mlp_in.1",)), "value", "NoneType"),
        (
            Edit("mlp_out.1", lambda read: read["mlp_in.1"][:, :2], None, reads=("mlp_in.1",)),
            "value",
            "rows and col",
        ),
    ],
)
def test_a_wrong_computed_edit_names_field_and_fix(lm: FrozenLM, edit: Edit, field: str, why: str) -> None:
    with pytest.raises(BadInput, match=why) as caught:
        lm.logits(padded_batch(), edit)
    assert caught.value.field == field


def test_a_computed_edit_has_no_value_outside_of_a_pass() -> None:
    edit = Edit("mlp_out.1", lambda read: read["mlp_in.1"], None, reads=("mlp_in.1",))
    with pytest.raises(BadInput, match="computed inside each pass"):
        _ = edit.tensor
    assert edit.at(torch.ones(SIZE)).tensor.shape == (SIZE,) and edit.at(torch.ones(SIZE)).reads == ()
