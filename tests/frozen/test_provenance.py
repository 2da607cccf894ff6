"""Where things come from: what counts as the same model, and how a difference is shown."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import padded_batch, shared_lm, tiny_lm, tiny_model, tiny_tokenizer
from tokenizers import normalizers

from consistency_lens.errors import BadInput
from consistency_lens.frozen import FrozenLM, Provenance, ProvenanceMismatch
from consistency_lens.frozen.loading import provenance
from consistency_lens.frozen.loading.function import function_of
from consistency_lens.frozen.loading.provenance import hash_files, hash_tensors, hash_tokenizer, public_name

SITES = ("resid_post.1", "mlp_in.-1", "embed")


@pytest.fixture
def origin() -> Provenance:
    return shared_lm("llama").provenance(*SITES)


def test_it_says_what_was_computed(origin: Provenance) -> None:
    assert origin.model_id == "tiny-llama"
    assert origin.sites == ("embed", "resid_post.1", "mlp_in.3")
    assert (origin.dtype, origin.quantization) == ("float32", "none")
    assert origin.versions["torch"] == torch.__version__ and "transformers" in origin.versions
    assert all(len(hash_) == len("sha256:") + 64 for hash_ in (origin.weights, origin.tokenizer))


def test_it_goes_through_json_and_back(origin: Provenance) -> None:
    record = json.loads(json.dumps(origin.to_dict()))
    assert Provenance.from_dict(record) == origin
    assert Provenance.from_dict(record | {"written_by_a_later_version": 1}) == origin


def test_the_same_model_built_twice_is_the_same(origin: Provenance) -> None:
    again = tiny_lm("llama").provenance(*SITES)
    assert again == origin
    origin.require_same(again)


def test_the_name_and_the_libraries_may_change(origin: Provenance) -> None:
    origin.require_same(replace(origin, model_id="moved", versions={"torch": "9.9"}))


@pytest.mark.parametrize(
    ("field", "other"),
    [
        *[("weights", "sha256:0"), ("tokenizer", "sha256:1"), ("sites", ("embed",))],
        *[("dtype", "bfloat16"), ("quantization", "4bit")],
    ],
)
def test_a_difference_shows_both_sides_field_by_field(origin: Provenance, field: str, other: object) -> None:
    theirs = replace(origin, **{field: other})
    with pytest.raises(ProvenanceMismatch) as caught:
        origin.require_same(theirs, ours="the lens", theirs="the rows")
    text = str(caught.value)
    lines = {line.split()[line.startswith("!")]: line for line in text.splitlines()[2:-1]}
    assert set(lines) == set(origin.to_dict()) - {"configuration"}, "that of the same model is not shown"
    assert [name for name, line in lines.items() if line.startswith("!")] == [field]
    for side in (origin, theirs):
        shown = side.to_dict()[field]
        assert (json.dumps(shown) if isinstance(shown, (list, tuple)) else shown) in lines[field]
    assert text.splitlines()[0].startswith("the lens and the rows") and "Load the model that the rows names" in text
    origin.require_same(theirs, ignore=[field])


SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "rope_parameters.rope_theta": ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
    "rms_norm_eps": ("llama", {"rms_norm_eps": 1e-2}),
    "hidden_act": ("llama", {"hidden_act": "relu"}),
    "final_logit_softcapping": ("gemma2", {"final_logit_softcapping": 1.0}),
    "sliding_window": ("mistral-window", {"sliding_window": 3}),
    "activation_function": ("gpt2", {"activation_function": "relu"}),
    "scale_attn_by_inverse_layer_idx": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_same_weights_under_another_configuration_are_another_model(name: str) -> None:
    case, changes = SETTINGS[name]
    ours, theirs = shared_lm(case), tiny_lm(case, **changes)
    assert not torch.allclose(ours.logits(padded_batch()), theirs.logits(padded_batch())), "it is another function"
    one, other = ours.provenance("embed"), theirs.provenance("embed")
    assert one.weights == other.weights
    with pytest.raises(ProvenanceMismatch) as caught:
        one.require_same(other)
    (line,) = (line for line in str(caught.value).splitlines() if line.startswith("!"))
    assert line.split()[1:] == [f"configuration.{name}", *(str(p.configuration[name]) for p in (one, other))]
    one.require_same(other, ignore=["configuration"])


FREE = {
    **{"_name_or_path": "/a/somebody/x", "dtype": "bfloat16", "transformers_version": "9", "architectures": ["X"]},
    **{
        "use_cache": False,
        "output_hidden_states": True,
        "bos_token_id": 7,
        "pad_token_id": None,
        "id2label": {"0": "x"},
    },
    **{"attention_dropout": 0.5, "initializer_range": 1.0},
    **{"where_it_was": "/a/somebody/y", "unsloth_version": "2"},
}


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.sets(st.sampled_from(sorted(FREE)), min_size=1))
def test_names_paths_versions_and_generation_are_no_part_of_the_function(names: set[str]) -> None:
    plain = tiny_model("llama").config
    other = type(plain).from_dict(plain.to_dict() | {name: FREE[name] for name in names})
    assert function_of(other) == function_of(plain)
    assert "somebody" not in json.dumps(function_of(other))


NUMBERS = sorted(
    name for name, value in function_of(tiny_model("llama").config).items() if type(value) in (int, float)
)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.sampled_from(NUMBERS), st.integers(2, 9), st.sets(st.sampled_from(NUMBERS)))
def test_only_what_both_sides_name_is_compared(name: str, by: int, unknown: set[str]) -> None:
    origin = shared_lm("llama").provenance(*SITES)
    changed = {**origin.configuration, name: origin.configuration[name] * by, "a_later_field": 1}
    theirs = {key: value for key, value in changed.items() if key not in unknown}
    other = Provenance.from_dict(json.loads(json.dumps(replace(origin, configuration=theirs).to_dict())))
    if name in unknown:
        origin.require_same(other)
        return
    for one, two in ((origin, other), (other, origin)):
        with pytest.raises(ProvenanceMismatch, match=f"configuration.{name}"):
            one.require_same(two)


def test_what_was_saved_without_a_configuration_still_fits(origin: Provenance) -> None:
    record = origin.to_dict()
    del record["configuration"]
    older = Provenance.from_dict(record)
    assert older.to_dict() == record
    older.require_same(origin)
    origin.require_same(older)


def test_ignoring_one_field_does_not_hide_another(origin: Provenance) -> None:
    theirs = replace(origin, dtype="bfloat16", quantization="4bit")
    with pytest.raises(ProvenanceMismatch) as caught:
        origin.require_same(theirs, ignore=["dtype"])
    assert "! quantization" in " ".join(str(caught.value).split()) and "! dtype" not in " ".join(
        str(caught.value).split()
    )


def test_at_narrows_the_sites(origin: Provenance) -> None:
    narrowed = origin.at("mlp_in.3")
    assert narrowed == replace(origin, sites=("mlp_in.3",))
    with pytest.raises(ProvenanceMismatch):
        narrowed.require_same(origin)
    with pytest.raises(BadInput, match=r"embed, resid_post\.1, mlp_in\.3") as caught:
        origin.at("mlp_in.2")
    assert (caught.value.field, caught.value.value) == ("site", "mlp_in.2")


def test_the_weights_hash_sees_every_weight(origin: Provenance) -> None:
    for name, _ in tiny_model("llama").named_parameters():
        model = tiny_model("llama")
        with torch.no_grad():
            model.get_parameter(name).view(-1)[-1] += 1e-3
        changed = FrozenLM(model, tiny_tokenizer()).provenance(*SITES)
        assert changed.weights != origin.weights, name
        with pytest.raises(ProvenanceMismatch):
            origin.require_same(changed)


def test_the_tensor_hash_sees_names_dtypes_and_shapes() -> None:
    zeros = torch.zeros(2, 3)
    others = [{"b": zeros}, {"a": zeros.T}, {"a": zeros.int()}, {"a": zeros, "b": zeros}, {"a": zeros + 1}, {}]
    hashes = [hash_tensors(tensors) for tensors in ({"a": zeros}, *others)]
    assert len(set(hashes)) == len(hashes)
    assert hash_tensors({"a": torch.tensor(1.0), "b": zeros.bfloat16()}).startswith("sha256:")
    assert hash_tensors({"a": zeros, "b": zeros + 1}) == hash_tensors({"b": zeros + 1, "a": zeros})
    strided = torch.arange(6.0).view(3, 2).T
    assert hash_tensors({"a": strided}) == hash_tensors({"a": strided.contiguous()})


def test_the_tokenizer_hash_sees_words_special_tokens_and_rules() -> None:
    plain = hash_tokenizer(tiny_tokenizer())
    assert hash_tokenizer(tiny_tokenizer()) == plain
    more, special, rule = tiny_tokenizer(), tiny_tokenizer(), tiny_tokenizer()
    more.add_tokens(["w1000"])
    special.pad_token = "<eos>"
    rule.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert len({plain, *map(hash_tokenizer, (more, special, rule))}) == 4


def test_using_a_tokenizer_does_not_change_its_hash() -> None:
    tokenizer = tiny_tokenizer()
    plain = hash_tokenizer(tokenizer)
    tokenizer.padding_side = "left"
    tokenizer(["w1 w2", "w3"], padding=True, truncation=True, max_length=2, return_tensors="pt")
    assert tokenizer.backend_tokenizer.padding is not None and tokenizer.backend_tokenizer.truncation is not None
    assert hash_tokenizer(tokenizer) == plain


def test_a_saved_folder_gives_its_name_and_never_its_path(tmp_path: Path) -> None:
    folder = tmp_path / "my-llama"
    tiny_model("llama").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    loaded = FrozenLM.from_pretrained(folder)
    wrapped = FrozenLM(loaded.model, loaded.tokenizer)  # the library remembers the path
    assert str(tmp_path) in loaded.model.config.name_or_path
    for lm in (loaded, wrapped, FrozenLM(loaded.model, loaded.tokenizer, str(folder))):
        origin = lm.provenance("embed")
        assert origin.model_id == "my-llama" and str(tmp_path) not in json.dumps(origin.to_dict())
        with pytest.raises(BadInput) as caught:
            lm.read(padded_batch((129,)), "embed")
        assert str(tmp_path) not in str(caught.value)
    assert hash_tokenizer(loaded.tokenizer) == hash_tokenizer(tiny_tokenizer())


def test_names_of_the_hub_stay_and_paths_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert public_name("EleutherAI/pythia-70m") == "EleutherAI/pythia-70m"
    assert public_name("./here") == public_name(str(tmp_path / "here")) == public_name("here/../here") == "here"
    assert public_name(str(tmp_path / "gone")) == "gone"


def test_the_file_hash_sees_names_and_contents(tmp_path: Path) -> None:
    for name, content in (("a", b"1"), ("b", b"2")):
        (tmp_path / name).write_bytes(content)
    paths = [tmp_path / "a", tmp_path / "b"]
    before = hash_files(paths)
    assert hash_files(reversed(paths)) == before != hash_files(paths[:1])
    (tmp_path / "b").write_bytes(b"3")
    assert hash_files(paths) != before
    paths[1].rename(tmp_path / "c")
    assert hash_files([tmp_path / "a", tmp_path / "c"]) != before


def test_hashing_large_files_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tmp_path / f"{i}.safetensors" for i in range(3)]
    for file in files:
        file.write_bytes(b"x" * 100)
    with caplog.at_level(logging.INFO, logger="consistency_lens"):
        quiet = hash_files(files)
        assert caplog.text == ""
        monkeypatch.setattr(provenance, "_LARGE", 299)
        assert hash_files(iter(files)) == quiet
    assert "hashing 3 files (0.safetensors, 1.safetensors, ...)" in caplog.text and str(tmp_path) not in caplog.text
