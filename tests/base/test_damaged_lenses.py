"""The files of a lens hold the numbers that its parameters want, or it is refused by name."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lens_runs import tiny_lens, trainer_of
from safetensors.torch import load_file, save_file
from test_auto import change_config
from tiny import shared_lm, tiny_lm

from consistency_lens.errors import BadInput
from consistency_lens.text.configuration import ConsistencyLensConfig
from consistency_lens.text.modeling import ConsistencyLens
from consistency_lens.text.parts.decoder_encoder import LensEncoder

BOUNDED = settings(max_examples=25, deadline=None, derandomize=True)
DAMAGE: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor | None], str]] = {
    "gone": (lambda tensor: None, "it is not there"),
    "one NaN": (lambda tensor: tensor.flatten().index_fill(0, torch.tensor([3]), math.nan).view_as(tensor), "finite"),
    "one that no training gives": (
        lambda tensor: tensor.flatten().index_fill(0, torch.tensor([3]), 1e20).view_as(tensor),
        "larger than 1e\\+09",
    ),
    "infinite": (lambda tensor: tensor / 0, "finite"),
    "whole numbers": (lambda tensor: tensor.long(), "int64 and should be floats"),
    "turned": (lambda tensor: tensor[None], "its shape is"),
    "cut": (lambda tensor: tensor.flatten()[:1], "its shape is"),  # which would be broadcast without a word
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "lens"
    tiny_lens(tiny_lm(), trainable="full").save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "lens")


def damage(file: Path, name: str, how: str) -> None:
    tensors = load_file(file)
    changed = DAMAGE[how][0](tensors.pop(name))
    save_file(tensors if changed is None else tensors | {name: changed}, file, metadata={"format": "pt"})


@BOUNDED
@given(st.data(), st.sampled_from(sorted(DAMAGE)))
def test_no_weight_of_a_lens_is_taken_that_is_not_one(saved: Path, data: st.DataObject, how: str) -> None:
    file = data.draw(st.sampled_from(["model.safetensors", "decoder/model.safetensors", "encoder/model.safetensors"]))
    name = data.draw(st.sampled_from(sorted(load_file(saved / file))))
    with TemporaryDirectory() as place:
        folder = shutil.copytree(saved, Path(place) / "lens")
        damage(folder / file, name, how)
        with pytest.raises(BadInput) as caught:
            ConsistencyLens.from_pretrained(folder, shared_lm("llama"))
    assert caught.value.field == "lens"
    said = str(caught.value)  # a shape that the configuration knows is compared with it before anything is loaded
    assert f"{file} differs in {name}" in said and (
        DAMAGE[how][1].replace("\\", "") in said or "by its config.json" in said
    )


def test_an_adapter_is_looked_at_as_well(tmp_path: Path) -> None:
    tiny_lens(tiny_lm(), trainable="lora").save_pretrained(tmp_path)
    file = tmp_path / "decoder/adapter_model.safetensors"
    damage(file, min(load_file(file)), "gone")
    with pytest.raises(BadInput, match=r"decoder/adapter_model.safetensors differs in base_model.*it is not there"):
        ConsistencyLens.from_pretrained(tmp_path, tiny_lm())


@pytest.mark.parametrize("how", sorted(DAMAGE))
def test_a_part_and_its_averages_are_looked_at_as_well(how: str, folder: Path, tmp_path: Path) -> None:
    damage(folder / "encoder/model.safetensors", "model.embed_tokens.weight", how)
    with pytest.raises(BadInput, match=DAMAGE[how][1]):
        LensEncoder.from_pretrained(folder, shared_lm("llama"))
    trainer = trainer_of(tmp_path / "run", ema_decay=0.5)
    assert trainer.average is not None
    trainer.average.save(tmp_path)
    trainer.average.load(tmp_path)
    damage(tmp_path / "ema.safetensors", "decoder.map.weight", how)
    with pytest.raises(BadInput, match=f"ema.safetensors differs in decoder.map.weight: .*{DAMAGE[how][1]}"):
        trainer.average.load(tmp_path)


@pytest.mark.parametrize("norm", [0, 0.0, -5.0, 1e-300, 1e30, 10**30, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["activation_norm", "embedding_norm"])
def test_a_norm_that_nothing_can_be_divided_by_is_refused(name: str, norm: float, folder: Path) -> None:
    change_config(folder, **{name: norm})
    with pytest.raises(BadInput, match=f"{name}=.*finite number from 1e-09"):
        ConsistencyLens.from_pretrained(folder)
    with pytest.raises(BadInput, match=f"{name}="):
        ConsistencyLensConfig(**{name: norm})


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("dtype", ["projections", "resid_post.1", "float13", "nn"])
def test_a_dtype_that_torch_does_not_have_is_refused(name: str, dtype: str, folder: Path) -> None:
    change_config(folder, **{name: dtype})
    with pytest.raises(BadInput, match=f"{name}='{dtype}', expected one of float64, float32"):
        ConsistencyLens.from_pretrained(folder)


@pytest.mark.parametrize("length", [60_000, 124])
@pytest.mark.parametrize("known", [True, False])
def test_a_text_longer_than_the_context_is_refused_at_load(length: int, known: bool, folder: Path) -> None:
    """The prompt has 5 tokens, and the frozen model takes 128."""
    subject = shared_lm("llama") if known else None
    change_config(folder, code_length=123)
    assert ConsistencyLens.from_pretrained(folder, subject).config.code_length == 123
    change_config(folder, code_length=length)
    with pytest.raises(BadInput, match=r"takes 128 tokens, and the prompt has 5.*Use at most 123") as caught:
        ConsistencyLens.from_pretrained(folder, subject)
    assert caught.value.field == "code_length"
