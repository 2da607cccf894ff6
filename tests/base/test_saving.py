"""What is saved is what comes back, nothing of the frozen model goes along, and what does not fit is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from lens_runs import stirred, tiny_lens
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import padded_batch, shared_lm, tiny_lm
from transformers import AutoModelForCausalLM, AutoTokenizer

from consistency_lens.errors import BadInput
from consistency_lens.frozen import FrozenLM, ProvenanceMismatch
from consistency_lens.text.modeling import ConsistencyLens

# decoder, encoder
KINDS = [("full", "full"), ("lora", "lora"), ("projections", "projections")]
KINDS += [
    ("full", "projections"),
    ("lora", "projections"),
    ("full", "lora"),
    ("lora", "full"),
    ("projections", "full"),
]
OTHERS = ["gpt2", "gemma2-window", "gemma3-vision", "qwen2-window", "phi3", "gpt_neox"]


def lens_of(kind: tuple[str, str], case: str = "llama") -> ConsistencyLens:
    return stirred(tiny_lens(tiny_lm(case), trainable=kind[0], encoder_trainable=kind[1]))


def words_and_vectors(lens: ConsistencyLens) -> tuple[list[str], torch.Tensor]:
    vectors = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))
    batch = {"activations": {lens.config.sites[0]: vectors}}
    code = lens.compress(batch, seed=4)
    (edit,) = lens.restore(code, batch)
    return [row["explanation"] for row in lens.explain(code)], edit.value


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def require_same(one: ConsistencyLens, other: ConsistencyLens) -> None:
    (said, restored), (said_again, restored_again) = words_and_vectors(one), words_and_vectors(other)
    assert said == said_again and len(set(said)) > 1
    assert torch.equal(restored, restored_again)


@pytest.mark.parametrize(
    ("kind", "case"), [(kind, "llama") for kind in KINDS] + [(kind, case) for kind in KINDS[:3] for case in OTHERS]
)
def test_a_lens_comes_back_bit_for_bit(kind: tuple[str, str], case: str, tmp_path: Path) -> None:
    lens = lens_of(kind, case)
    lens.save_pretrained(tmp_path / "lens")
    again = ConsistencyLens.from_pretrained(tmp_path / "lens", tiny_lm(case))
    require_same(lens, again)
    assert not again.training and again.subject is not None
    again.save_pretrained(tmp_path / "again")
    for name in files_in(tmp_path / "lens"):
        if name.endswith((".safetensors", ".json")):
            assert (tmp_path / "lens" / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


@pytest.mark.parametrize("case", ["llama", *OTHERS])
def test_a_lens_with_weights_of_its_own_needs_no_subject(case: str, tmp_path: Path) -> None:
    lens = lens_of(("full", "full"), case)
    lens.save_pretrained(tmp_path)
    again = ConsistencyLens.from_pretrained(tmp_path)
    require_same(lens, again)
    with pytest.raises(BadInput, match="subject=FrozenLM"):
        again.explain("w1 w2 w3")


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_lens_on_the_subjects_weights_needs_it(kind: tuple[str, str], tmp_path: Path) -> None:
    lens_of(kind).save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="Give the FrozenLM"):
        ConsistencyLens.from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_no_weights_of_the_subject_are_saved(kind: tuple[str, str], tmp_path: Path) -> None:
    """Maps at the root, and in each part's folder what that part trains and no more."""
    lens = lens_of(kind)
    lens.save_pretrained(tmp_path)
    subject = {tensor.contiguous().numpy().tobytes() for tensor in lens.subject.model.state_dict().values()}
    own = {p.detach().contiguous().numpy().tobytes() for part in lens.parts().values() for p in part.values()}
    expected = {"model.safetensors": 4}
    for part, trainable in zip(("decoder", "encoder"), kind, strict=True):
        if trainable == "full":
            expected[f"{part}/model.safetensors"] = len(lens.parts()[part])
        elif trainable == "lora":
            expected[f"{part}/adapter_model.safetensors"] = len(lens.parts()[part])
    assert {name for name in files_in(tmp_path) if name.endswith(".safetensors")} == expected.keys()
    for file, count in expected.items():
        tensors = load_file(tmp_path / file)
        assert len(tensors) == count
        for name, tensor in tensors.items():
            content = tensor.numpy().tobytes()
            assert content in own and (content not in subject or "lora_" in name), (file, name)
    assert not any(name.endswith((".bin", ".pt", ".part")) for name in files_in(tmp_path))


@pytest.mark.parametrize("case", ["llama", *OTHERS])
def test_the_decoder_of_a_full_lens_is_an_ordinary_causal_lm(case: str, tmp_path: Path) -> None:
    lens = lens_of(("full", "full"), case)
    lens.save_pretrained(tmp_path)
    ids = padded_batch((9, 9))["input_ids"]
    for part, module in (("decoder", lens.decoder), ("encoder", lens.encoder)):
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / part).eval()
        assert torch.equal(plain(ids).logits, module.lm(ids).logits), part
    assert AutoTokenizer.from_pretrained(tmp_path)("w1 w2")["input_ids"] == lens.tokenizer("w1 w2")["input_ids"]


def test_saving_twice_leaves_the_second(tmp_path: Path) -> None:
    lens = lens_of(("lora", "lora"))
    lens.save_pretrained(tmp_path)
    stirred(lens, seed=1).save_pretrained(tmp_path)
    require_same(lens, ConsistencyLens.from_pretrained(tmp_path, tiny_lm()))


# What does not fit.


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "lens"
    lens_of(("lora", "lora")).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("file", ["model.safetensors", "decoder/adapter_model.safetensors"])
def test_a_missing_or_cut_file_is_named(saved: Path, file: str, tmp_path: Path) -> None:
    folder = tmp_path / "lens"
    shutil.copytree(saved, folder)
    whole = (folder / file).read_bytes()
    for length in (len(whole) - 1, len(whole) // 2, 9, 0):
        (folder / file).write_bytes(whole[:length])
        with pytest.raises(BadInput, match=f"{file} cannot be read"):
            ConsistencyLens.from_pretrained(folder, tiny_lm())
    (folder / file).unlink()
    with pytest.raises(BadInput, match=f"{file} is missing"):
        ConsistencyLens.from_pretrained(folder, tiny_lm())


@pytest.mark.parametrize("change", ["more", "less", "shape"])
def test_a_file_of_another_shape_is_named(saved: Path, change: str, tmp_path: Path) -> None:
    folder = tmp_path / "lens"
    shutil.copytree(saved, folder)
    tensors = load_file(folder / "model.safetensors")
    match change:
        case "more":
            tensors["encoder.map.more"] = torch.zeros(1)
        case "less":
            del tensors["encoder.map.bias"]
        case _:
            tensors["encoder.map.bias"] = torch.zeros(1)  # which would be broadcast without a word
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadInput, match=r"model.safetensors differs in encoder\.map\.(more|bias)"):
        ConsistencyLens.from_pretrained(folder, tiny_lm())


def test_a_folder_without_a_lens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no lens in such a folder"):
        ConsistencyLens.from_pretrained(tmp_path, shared_lm("llama"))


@pytest.mark.parametrize("other", ["weights", "tokenizer", "architecture"])
def test_another_subject_is_refused_with_both_sides(saved: Path, other: str) -> None:
    match other:
        case "weights":
            frozen = tiny_lm()
            with torch.no_grad():
                frozen.model.get_input_embeddings().weight[5, 5] += 1e-3
            frozen = FrozenLM(frozen.model, frozen.tokenizer, model_id="tiny-llama")
        case "tokenizer":
            frozen = tiny_lm()
            frozen.tokenizer.add_tokens(["another"])
        case _:
            frozen = tiny_lm("qwen3")
    with pytest.raises(ProvenanceMismatch) as caught:
        ConsistencyLens.from_pretrained(saved, frozen)
    said = str(caught.value)
    assert "the lens" in said and "the model" in said
    expected = ConsistencyLens.from_pretrained(saved, tiny_lm()).config.origin
    field = {"weights": "weights", "tokenizer": "tokenizer", "architecture": "model_id"}[other]
    for side in (frozen.provenance("resid_post.1"), expected):
        assert str(vars(side)[field]) in said


def test_a_lens_of_another_site_does_not_load_these_weights(saved: Path, tmp_path: Path) -> None:
    """Its provenance names the site: a changed configuration contradicts it."""
    folder = tmp_path / "lens"
    shutil.copytree(saved, folder)
    config = json.loads((folder / "config.json").read_text())
    config["sites"] = ["resid_post.2"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ProvenanceMismatch, match=r"resid_post\.1[\s\S]*resid_post\.2|resid_post\.2[\s\S]*resid_post\.1"
    ):
        ConsistencyLens.from_pretrained(folder, tiny_lm())


def test_the_files_say_what_wrote_them(saved: Path) -> None:
    with safe_open(saved / "model.safetensors", "pt") as tensors:
        assert tensors.metadata() == {"format": "pt"}
