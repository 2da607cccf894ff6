"""Several frozen models by name: what is dealt to whom, and who is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import padded_batch, shared_lm, tiny_model, tiny_tokenizer

from consistency_lens.errors import BadInput
from consistency_lens.frozen import Edit, FrozenLM, FrozenModels, ProvenanceMismatch


def named(name: str, case: str = "llama") -> FrozenLM:
    """A shared model under another name."""
    lm = shared_lm(case)
    return FrozenLM(lm.model, lm.tokenizer, model_id=lm.model_id, weights=lm.provenance("embed").weights, name=name)


SENDER, RECEIVER, THIRD = named("sender"), named("receiver", "gpt2"), named("third", "qwen2")
PAIR = FrozenModels([SENDER, RECEIVER])
SITES = {"sender": ["resid_post.-1"], "receiver": ["embed"]}


@pytest.mark.parametrize(
    "given_as", [[SENDER, RECEIVER], (SENDER, RECEIVER), {"sender": SENDER, "receiver": RECEIVER}, PAIR]
)
def test_a_list_and_a_mapping_are_the_same_models_in_the_same_order(given_as: Any) -> None:
    models = FrozenModels.of(given_as)
    assert list(models.items()) == [("sender", SENDER), ("receiver", RECEIVER)]
    assert models.first is SENDER and models["receiver"] is RECEIVER and "third" not in models
    assert repr(models) == "FrozenModels(sender: tiny-llama, receiver: tiny-gpt2)"


def test_one_model_is_one_under_its_own_name(lm: FrozenLM) -> None:
    models = FrozenModels.of(lm)
    assert dict(models) == {"base": lm} and models.only is models.first is lm
    with pytest.raises(BadInput, match="one model is needed here"):
        _ = PAIR.only


@pytest.mark.parametrize(
    ("given_as", "message"),
    [
        ([], "at least one"),
        ({}, "at least one"),
        ([SENDER, SENDER], "two models are named 'sender'"),
        ({"a": SENDER, "b": RECEIVER}, r"the models are named \['sender', 'receiver'\]"),
        ({"receiver": SENDER, "sender": RECEIVER}, "own name as its key"),
        ([SENDER, "gpt2"], "Give a FrozenLM, a list"),
        ("gpt2", "Give a FrozenLM, a list"),
        (None, "Give a FrozenLM, a list"),
    ],
)
def test_what_are_no_models_by_name_is_refused(given_as: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        FrozenModels.of(given_as)
    assert caught.value.field == "frozen"


@given(st.lists(st.sampled_from([None, "sender", "receiver"]), max_size=8))
def test_edits_are_dealt_by_name_and_keep_their_order(names: list[str | None]) -> None:
    edits = [Edit("resid_post.0", torch.full((32,), float(i)), lm=name) for i, name in enumerate(names)]
    dealt = PAIR.deal(edits)
    assert list(dealt) == ["sender", "receiver"]
    assert dealt["sender"] == [edit for edit in edits if edit.lm != "receiver"]
    assert dealt["receiver"] == [edit for edit in edits if edit.lm == "receiver"]


def test_each_model_takes_what_it_was_dealt() -> None:
    batch, value = padded_batch((5, 3)), torch.ones(32)
    dealt = PAIR.deal([Edit("resid_post.0", value), Edit("resid_post.0", 2 * value, lm="receiver")])
    assert torch.equal(
        SENDER.logits(batch, dealt["sender"]), shared_lm("llama").logits(batch, Edit("resid_post.0", value))
    )
    assert torch.equal(
        RECEIVER.logits(batch, dealt["receiver"]), shared_lm("gpt2").logits(batch, Edit("resid_post.0", 2 * value))
    )
    assert PAIR.deal(Edit("resid_post.0", value))["receiver"] == []


def test_models_may_differ_in_width_depth_and_tokenizer() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["more"])
    narrow = FrozenLM(tiny_model("llama", hidden_size=16, head_dim=4, num_hidden_layers=2), tokenizer, name="narrow")
    models = FrozenModels.of([SENDER, narrow])
    origins = models.provenance({"sender": ["resid_post.3"], "narrow": ["resid_post.-1"]})
    assert origins["narrow"].sites == ("resid_post.1",)
    assert origins["narrow"].tokenizer != origins["sender"].tokenizer
    dealt = models.deal([Edit("resid_post.1", torch.ones(16), lm="narrow"), Edit("resid_post.3", torch.ones(32))])
    batch = padded_batch((5, 3))
    for name, model in models.items():
        assert not torch.equal(model.logits(batch, dealt[name]), model.logits(batch))
    models.require_same(origins)


def test_an_edit_that_names_no_model_fits_a_model_of_any_name() -> None:
    batch, edit = padded_batch((5, 3)), Edit("resid_post.0", torch.ones(32))
    assert torch.equal(SENDER.logits(batch, edit), shared_lm("llama").logits(batch, edit))


def test_an_edit_for_a_model_that_is_not_here_is_refused_by_name() -> None:
    with pytest.raises(BadInput, match=r"lm='third': an edit at resid_post.1 .* one of sender, receiver"):
        PAIR.deal([Edit("resid_post.1", torch.ones(32), lm="third")])


def test_models_move_together_or_each_to_its_own_device() -> None:
    models = FrozenModels([FrozenLM(tiny_model("llama"), tiny_tokenizer(), name=name) for name in ("a", "b")])
    assert models.to({"b": "meta"}) is models
    assert [model.device.type for model in models.values()] == ["cpu", "meta"]
    assert [model.device.type for model in models.to("meta").values()] == ["meta", "meta"]
    with pytest.raises(BadInput, match="devices='c'"):
        models.to({"c": "cpu"})


def test_provenance_is_by_name() -> None:
    origins = PAIR.provenance(SITES)
    assert list(origins) == ["sender", "receiver"]
    assert origins["sender"] == SENDER.provenance("resid_post.3")
    assert origins["receiver"] == RECEIVER.provenance("embed")
    PAIR.require_same(origins)
    with pytest.raises(BadInput, match="the sites also needs third"):
        PAIR.provenance(SITES | {"third": ["embed"]})


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ([SENDER], "the lens also needs receiver"),
        ([SENDER, RECEIVER, THIRD], "the lens knows no third"),
        ([RECEIVER, SENDER], "they are in another order"),
        ([SENDER, THIRD], "also needs receiver"),
    ],
)
def test_models_that_are_missing_too_many_or_in_another_order_are_refused(models: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        FrozenModels.of(models).require_same(PAIR.provenance(SITES))
    assert caught.value.value == [model.name for model in models]
    assert "['sender', 'receiver']" in caught.value.fix


def test_another_model_under_a_name_is_refused_and_both_are_shown() -> None:
    other = FrozenModels([SENDER, named("receiver", "qwen2")])
    with pytest.raises(ProvenanceMismatch, match="the model 'receiver' and the lens do not") as caught:
        other.require_same(PAIR.provenance(SITES))
    assert "tiny-qwen2" in str(caught.value) and "tiny-gpt2" in str(caught.value)
    shallow = FrozenLM(tiny_model("llama", num_hidden_layers=2), tiny_tokenizer(), name="sender")
    with pytest.raises(ProvenanceMismatch, match="the model 'sender'"):  # not: it has no layer 3
        FrozenModels([shallow, RECEIVER]).require_same(PAIR.provenance(SITES))
    other.require_same(PAIR.provenance(SITES), ignore=("weights", "tokenizer", "configuration"))
