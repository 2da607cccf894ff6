"""Files of a frozen model that are damaged, or not whole, are refused in one line and by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from extracting import saved_model
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny import TINY_CONFIGS, tiny_model, tiny_tokenizer
from transformers import AutoTokenizer

from consistency_lens.cli.opening import open_model
from consistency_lens.errors import BadInput
from consistency_lens.frozen import FrozenLM
from consistency_lens.frozen.loading.whole import require_finite_weights, require_numbers

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
UP = "model.layers.1.mlp.up_proj.weight"
BOUNDED = settings(max_examples=25, deadline=None, derandomize=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(saved_model(), tmp_path / "model")


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def rewrite(folder: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def refusal_of(folder: Path) -> str:
    with pytest.raises(BadInput) as caught:
        FrozenLM.from_pretrained(folder)
    assert caught.value.field == "model_name_or_path"
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700
    return str(caught.value)


NAMES = sorted(load_file(saved_model() / WEIGHTS))


@BOUNDED
@given(st.sets(st.sampled_from(NAMES), min_size=1, max_size=5))
def test_a_weight_that_is_missing_is_never_a_random_one(missing: set[str]) -> None:
    with TemporaryDirectory() as name:
        place = shutil.copytree(saved_model(), Path(name) / "model")
        rewrite(place, lambda tensors: [tensors.pop(key) for key in missing])
        assert f"its files lack {min(missing)}" in refusal_of(place)


def test_a_weight_too_many_is_named(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.update({"model.other.weight": torch.ones(2)}))
    assert "no place for model.other.weight" in refusal_of(folder)


def test_many_names_are_counted(folder: Path) -> None:
    change(folder / "config.json", num_hidden_layers=3)
    assert "model.layers.3.mlp.gate_proj.weight and 6 more" in refusal_of(folder)


@pytest.mark.parametrize("case", ["gpt2", "llama", "gemma3"])
def test_a_head_that_is_tied_to_the_embedding_lies_in_no_file(case: str, tmp_path: Path) -> None:
    model = tiny_model(case, tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / WEIGHTS)
    lm = FrozenLM.from_pretrained(tmp_path)
    assert torch.equal(lm.model.get_output_embeddings().weight, model.get_input_embeddings().weight)


@pytest.mark.parametrize(
    ("case", "buffer"),
    [
        ("gpt2", "h.0.attn.masked_bias"),
        ("gpt2", "h.0.attn.bias"),
        ("gpt_neox", "gpt_neox.layers.0.attention.masked_bias"),
        ("llama", "model.layers.0.self_attn.rotary_emb.inv_freq"),
    ],
)
def test_buffers_of_older_versions_are_no_weights(case: str, buffer: str, tmp_path: Path) -> None:
    tiny_model(case).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    rewrite(tmp_path, lambda tensors: tensors.update({buffer: torch.ones(1)}))
    assert FrozenLM.from_pretrained(tmp_path).provenance("embed").weights.startswith("sha256:")


@BOUNDED
@given(st.floats(0, 1, exclude_max=True))
def test_a_file_cut_off_anywhere_is_refused(share: float) -> None:
    with TemporaryDirectory() as name:
        place = shutil.copytree(saved_model(), Path(name) / "model")
        content = (place / WEIGHTS).read_bytes()
        (place / WEIGHTS).write_bytes(content[: int(share * len(content))])
        assert "SafetensorError" in refusal_of(place)


@pytest.mark.parametrize(
    "index", ["", "{}", "[]", '{"weight_map": {}}', *(f'{{"weight_map": {{"{UP}": {to}}}}}' for to in ('"gone"', "7"))]
)
def test_an_index_that_leads_nowhere_is_refused(index: str, folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "model-00001.safetensors")
    (folder / INDEX).write_text(index)
    refusal_of(folder)


@pytest.mark.parametrize(
    ("field", "values"),
    {
        "hidden_size": (64, 0, -1, "x", None, 10**9),
        "intermediate_size": (0, 10**9),
        "vocab_size": (0, 50, 10**10),
        "num_hidden_layers": (0, -2, 5, 10**6),
        "num_attention_heads": (0, 3, -4, 10**9),
        "num_key_value_heads": (0, 3),
        "head_dim": (0, 7),
        "dtype": ("float99", "int8", 7),
        "model_type": ("nope", 3, None, "bert"),
        "hidden_act": ("nope",),
        "pad_token_id": (10**6,),
        "quantization_config": (3,),
        "rope_parameters": ({"rope_type": "nope"},),
    }.items(),
)
def test_a_configuration_of_another_model_is_refused_before_memory_is_taken(
    field: str, values: tuple[Any, ...], folder: Path
) -> None:
    plain = (folder / "config.json").read_text()
    for value in values:
        (folder / "config.json").write_text(plain)
        change(folder / "config.json", **{field: value})
        refusal_of(folder)


def test_a_size_that_fits_no_file_is_refused_where_the_weights_have_other_names(folder: Path) -> None:
    rewrite(folder, lambda tensors: [tensors.update({f"old.{key}": tensors.pop(key)}) for key in list(tensors)])
    change(folder / "config.json", intermediate_size=10**9)
    assert "describes 3.84e+11 weights, and its files have" in refusal_of(folder)


def test_whole_numbers_are_no_weights(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.update({UP: tensors[UP].long()}))
    assert f"{UP} is no float in its files: I64" in refusal_of(folder)


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", "3", '{"model": {}}', '{"version": "1.0"}', "[" * 10**5])
@pytest.mark.parametrize("file", ["tokenizer.json", "config.json"])
def test_what_is_no_tokenizer_and_no_configuration_is_refused(file: str, content: str, folder: Path) -> None:
    (folder / file).write_text(content)
    refusal_of(folder)
    with pytest.raises(BadInput) as caught:  # and on the command line, before the weights
        open_model(str(folder), None)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_that_the_library_calls_broken_is_refused(folder: Path) -> None:
    """tokenizers has no error of its own: it raises a bare `Exception`."""
    change(folder / "tokenizer.json", model={"type": "WordLevel"})
    with pytest.raises(Exception) as bare:
        AutoTokenizer.from_pretrained(folder)
    assert type(bare.value) is Exception
    refusal_of(folder)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("a"), ImportError("b"), MemoryError(), KeyboardInterrupt()])
def test_what_is_no_damage_keeps_its_name(error: BaseException) -> None:
    from consistency_lens.frozen.loading.whole import refusing_damage

    with pytest.raises(type(error)) as caught, refusing_damage("somewhere"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_no_number_is_named(folder: Path, number: float) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors[UP].view(-1)[7] = number

    rewrite(folder, spoil)
    assert f"not all numbers are finite in {UP}" in refusal_of(folder)


@pytest.mark.parametrize("number", [1e10, -3e38])
def test_a_weight_that_no_training_gives_is_named(folder: Path, number: float) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors[UP].view(-1)[7] = number

    rewrite(folder, spoil)
    assert f"numbers are larger than 1e+09 in {UP}" in refusal_of(folder)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps=nan, expected a finite number from 0 to 0.1"),
        ({"rms_norm_eps": -1.0}, "rms_norm_eps=-1.0, expected a finite number from 0 to 0.1"),
        ({"rms_norm_eps": 1e30}, "rms_norm_eps=1e+30"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": float("nan")}}, "rope_theta=nan"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": -5.0}}, "rope_theta=-5.0, expected"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": float("inf")}}, "rope_theta=inf"),
        ({"max_position_embeddings": 10**400}, "max_position_embeddings=a number of 1329 bits"),
        ({"max_position_embeddings": -3}, "max_position_embeddings=-3"),
    ],
)
def test_a_number_that_no_model_can_compute_with_is_named(folder: Path, fields: dict[str, Any], said: str) -> None:
    change(folder / "config.json", **fields)
    assert said in refusal_of(folder)


def test_numbers_of_models_as_they_are_pass() -> None:
    """Of every architecture that is known here."""
    for case in TINY_CONFIGS:
        require_numbers(tiny_model(case).config, case)
        require_finite_weights(tiny_model(case), case)
