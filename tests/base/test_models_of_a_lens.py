"""What a lens keeps of the models it was made for, and of the sites that it reads and writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import shared_lm

from consistency_lens.base.configuration import LensConfig
from consistency_lens.errors import BadInput
from consistency_lens.frozen import FrozenLM, FrozenModels, ProvenanceMismatch


def named(name: str, case: str) -> FrozenLM:
    lm = shared_lm(case)
    return FrozenLM(lm.model, lm.tokenizer, model_id=lm.model_id, weights=lm.provenance("embed").weights, name=name)


# Not in the order of the alphabet, which JSON is written in.
PAIR = FrozenModels([named("sender", "llama"), named("a_receiver", "gpt2"), named("receiver", "qwen2")])
ORIGINS = PAIR.provenance({"sender": ["resid_post.1", "mlp_out.2"], "a_receiver": ["embed"], "receiver": ["embed"]})


def saved(config: LensConfig, folder: Path) -> LensConfig:
    config.save_pretrained(folder)
    return LensConfig.from_pretrained(folder)


def test_a_lens_of_one_model_keeps_what_it_always_kept(tmp_path: Path, lm: FrozenLM) -> None:
    origin = lm.provenance("resid_post.1")
    config = LensConfig(sites=["resid_post.1"], hidden_size=32, **LensConfig.fields_of({"base": origin}))
    again = saved(config, tmp_path)
    assert again.origins == {"base": origin} and again.origin == origin
    assert again.written == ["resid_post.1"]
    record = json.loads((tmp_path / "config.json").read_text())
    assert record["provenance"]["weights"] == origin.weights
    assert all(record[name] is None for name in ("model_names", "other_models", "writes"))
    for models in (lm, [lm], {"base": lm}, named("another_name", "llama")):
        again.require_subject(models)
    with pytest.raises(ProvenanceMismatch, match="tiny-gpt2"):
        again.require_subject(shared_lm("gpt2"))
    with pytest.raises(BadInput, match="one model is needed here"):
        again.require_subject(PAIR)


def test_a_lens_of_several_models_keeps_them_by_name_and_in_order(tmp_path: Path) -> None:
    again = saved(LensConfig(sites=["resid_post.1"], hidden_size=32, **LensConfig.fields_of(ORIGINS)), tmp_path)
    assert list(again.origins) == ["sender", "a_receiver", "receiver"]
    assert again.origins == ORIGINS and again.origin == ORIGINS["sender"]
    again.require_subject(PAIR)
    again.require_subject(dict(PAIR))


@pytest.mark.parametrize("names", [["sender"], ["sender", "receiver", "a_receiver"], ["a_receiver", "receiver"]])
def test_other_models_than_those_of_the_lens_are_refused_by_name(names: list[str]) -> None:
    config = LensConfig(sites=["resid_post.1"], hidden_size=32, **LensConfig.fields_of(ORIGINS))
    with pytest.raises(BadInput) as caught:
        config.require_subject([PAIR[name] for name in names])
    assert caught.value.value == names and str(list(ORIGINS)) in caught.value.fix


def test_another_model_under_a_name_of_the_lens_is_refused() -> None:
    config = LensConfig(sites=["resid_post.1"], hidden_size=32, **LensConfig.fields_of(ORIGINS))
    with pytest.raises(ProvenanceMismatch, match="the model 'receiver'"):
        config.require_subject([PAIR["sender"], PAIR["a_receiver"], named("receiver", "gpt2")])


def test_what_is_written_may_differ_from_what_is_read(tmp_path: Path) -> None:
    config = LensConfig(sites=["resid_post.0", "resid_post.1"], writes=["mlp_out.2"])
    assert saved(config, tmp_path).written == ["mlp_out.2"] == config.written
    assert LensConfig(sites=["resid_post.0"], writes=[]).written == []
    assert LensConfig().written == []


@pytest.mark.parametrize(
    "fields",
    [
        {"model_names": ["a", "b"]},
        {"other_models": {"b": ORIGINS["receiver"].to_dict()}},
        {"model_names": ["a", "c"], "other_models": {"b": ORIGINS["receiver"].to_dict()}},
        {"model_names": ["b", "b"], "other_models": {"b": ORIGINS["receiver"].to_dict()}},
    ],
)
def test_names_that_fit_no_models_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(BadInput) as caught:
        LensConfig(provenance=ORIGINS["sender"].to_dict(), **fields)
    assert caught.value.field == "model_names"
