"""circuit-tracer's format: what is written computes the same by its own definition, and comes back as a lens."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tiny import shared_lm, tiny_lm
from torch import Tensor
from transcoders import activations, small_lens

from consistency_lens.errors import BadInput
from consistency_lens.sparse.modeling import CrosslayerTranscoder
from consistency_lens.sparse.use.circuit_tracer import KIND, export, names_of, read_export

KINDS: dict[str, dict[str, Any]] = {
    "jumprelu": {},
    "relu": {"nonlinearity": "relu", "standardisation": "dimension"},
    "tied": {"tied_decoder": True},
    "per layer": {"crosslayer": False},
}
READ = activations(seed=3)


def by_definition(folder: Path, read: Tensor) -> tuple[list[Tensor], Tensor]:
    """f = JumpReLU(W_enc x + b_enc), y_l = sum over i <= l of W_dec_i[:, l - i]^T f_i + b_dec_l, from the files."""
    features, targets = [], [torch.zeros(len(read), read.shape[2]) for _ in range(read.shape[1])]
    for i in range(read.shape[1]):
        own = load_file(folder / f"W_enc_{i}.safetensors") | load_file(folder / f"W_dec_{i}.safetensors")
        pre = read[:, i] @ own[f"W_enc_{i}"].T + own[f"b_enc_{i}"]
        features.append(pre * (pre > own.get(f"threshold_{i}", torch.zeros(1))))
        targets[i] = targets[i] + own[f"b_dec_{i}"]
        for j in range(read.shape[1] - i):
            targets[i + j] = targets[i + j] + features[i] @ own[f"W_dec_{i}"][:, j]
    return features, torch.stack(targets, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_files_compute_the_same_by_its_definition(kind: str, tmp_path: Path) -> None:
    lens = small_lens(**KINDS[kind])
    export(lens, tmp_path / "clt")
    assert sorted(path.name for path in (tmp_path / "clt").iterdir()) == sorted(names_of(4))
    assert yaml.safe_load((tmp_path / "clt" / "config.yaml").read_text()) == {
        "model_kind": "cross_layer_transcoder",
        "feature_input_hook": "hook_resid_mid",
        "feature_output_hook": "hook_mlp_out",
        "model_name": "tiny-llama",
    }
    features, written = by_definition(tmp_path / "clt", READ)
    expected = lens(READ)
    for own, active in zip(features, expected.active, strict=True):
        torch.testing.assert_close(own, active if isinstance(active, Tensor) else active.dense(), rtol=1e-4, atol=1e-5)
    again = lens.reconstruct(READ).detach()
    torch.testing.assert_close(written, again, rtol=1e-5, atol=1e-5 * float(again.abs().max()))
    shapes = {k: list(v.shape) for k, v in load_file(tmp_path / "clt" / "W_dec_1.safetensors").items()}
    assert shapes == {"W_dec_1": [24, 3, 32]}
    encoder = load_file(tmp_path / "clt" / "W_enc_1.safetensors")
    wanted = {"W_enc_1": [24, 32], "b_enc_1": [24], "b_dec_1": [32]}
    assert {k: list(v.shape) for k, v in encoder.items()} == wanted | ({} if kind == "relu" else {"threshold_1": [24]})


@pytest.mark.parametrize("kind", KINDS)
def test_it_comes_back_as_a_lens(kind: str, tmp_path: Path) -> None:
    lens, frozen = small_lens(**KINDS[kind]), shared_lm("llama")
    folder = export(lens, tmp_path / "clt")
    again = CrosslayerTranscoder.from_pretrained(folder, frozen)
    expected = lens.reconstruct(READ).detach()
    torch.testing.assert_close(again.reconstruct(READ), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    assert torch.equal(again(READ).code.counts(), lens(READ).code.counts())
    assert again.features("w1 w2") and again.config.nonlinearity == lens.config.nonlinearity
    again.save_pretrained(tmp_path / "ours")
    ours = CrosslayerTranscoder.from_pretrained(tmp_path / "ours", frozen)
    assert torch.equal(ours.reconstruct(READ), again.reconstruct(READ))
    export(again, tmp_path / "clt")  # over itself
    alone = CrosslayerTranscoder.from_pretrained(folder)
    torch.testing.assert_close(alone.reconstruct(READ), again.reconstruct(READ))


def test_other_hooks_and_no_subject(tmp_path: Path) -> None:
    lens = small_lens(read_stage="resid_pre")
    folder = export(lens, tmp_path / "clt")
    assert yaml.safe_load((folder / "config.yaml").read_text())["feature_input_hook"] == "hook_resid_pre"
    again = CrosslayerTranscoder.from_pretrained(folder)
    assert again.config.read_sites[2] == "resid_pre.2" and again.subject is None
    torch.testing.assert_close(again.reconstruct(READ), lens.reconstruct(READ), rtol=1e-5, atol=1e-4)


def test_a_topk_goes_through_calibrated_thresholds(tmp_path: Path) -> None:
    lens, read = small_lens(nonlinearity="batchtopk", k=3, features=64), activations(3000, seed=3)
    with pytest.raises(BadInput) as caught:
        export(lens, tmp_path / "clt")
    assert caught.value.field == "batches" and not (tmp_path / "clt").exists()
    folder = export(lens, tmp_path / "clt", batches=[read])
    features, _ = by_definition(folder, read)
    found = sum(float((f > 0).sum()) for f in features) / len(read)
    assert found == pytest.approx(float(lens(read).code.l0.sum()), rel=0.05)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"skip": True}, "skip"),
        ({"read_stage": "mlp_in"}, "read_stage"),
        ({"layers": "1:3"}, "layers"),
        ({"read_stage": "resid_pre", "write_stage": "resid_post"}, "write_stage"),
    ],
)
def test_what_circuit_tracer_cannot_hold_is_refused(settings: dict[str, Any], field: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        export(small_lens(**settings), tmp_path / "clt")
    assert caught.value.field == field and not (tmp_path / "clt").exists()


def test_stray_files_and_broken_weights_are_refused(tmp_path: Path) -> None:
    lens = small_lens()
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(BadInput, match=r"model\.safetensors lies in it"):
        export(lens, tmp_path)
    with torch.no_grad():
        threshold = lens.layers_in_order[2].log_threshold
        assert threshold is not None
        threshold[7] = -200.0  # 0 in float32
    with pytest.raises(BadInput, match="feature 2/7"):
        export(lens, tmp_path / "clt")
    with torch.no_grad():
        threshold[7] = 0.0
        lens.targets.b_dec[1, 0] = torch.nan
    with pytest.raises(BadInput, match="not finite"):
        export(lens, tmp_path / "clt")


def change(folder: Path, file: str, **tensors: Any) -> None:
    """Write a file again with some tensors changed, or left out where they are None."""
    own = load_file(folder / file) | tensors
    save_file({name: tensor for name, tensor in own.items() if tensor is not None}, folder / file)


def test_what_is_wrong_with_a_folder_is_named(tmp_path: Path) -> None:
    whole, frozen = export(small_lens(), tmp_path / "whole"), shared_lm("llama")

    def refused(why: str, break_it: Any, subject: Any = frozen) -> None:
        folder = tmp_path / "broken"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        break_it(folder)
        with pytest.raises(BadInput, match=why):
            CrosslayerTranscoder.from_pretrained(folder, subject)

    refused("layer 1 has no thresholds", lambda f: change(f, "W_enc_1.safetensors", threshold_1=None))
    refused("b_enc_2", lambda f: change(f, "W_enc_2.safetensors", b_enc_2=None))
    refused("W_dec_1 is", lambda f: change(f, "W_dec_1.safetensors", W_dec_1=torch.zeros(3, 24, 32)))
    refused("layers differ", lambda f: change(f, "W_enc_1.safetensors", b_enc_1=torch.zeros(23)))
    refused("of a feature of layer 3", lambda f: change(f, "W_enc_3.safetensors", threshold_3=-torch.ones(24)))
    refused("W_dec_2.safetensors is missing", lambda f: (f / "W_dec_2.safetensors").unlink())
    refused("is missing", lambda f: shutil.copy(f / "W_enc_0.safetensors", f / "W_enc_foo.safetensors"))
    refused("cannot be read", lambda f: (f / "W_enc_2.safetensors").write_bytes(b"x"))
    refused("model_kind", lambda f: (f / "config.yaml").unlink())
    refused("Hooks that can be read", lambda f: (f / "config.yaml").write_text("model_kind: cross_layer_transcoder\n"))
    refused("has 2 of size 32", lambda f: None, tiny_lm("llama", num_hidden_layers=2))
    with_row = tmp_path / "row"
    shutil.copytree(whole, with_row)
    change(with_row, "W_enc_1.safetensors", threshold_1=load_file(whole / "W_enc_1.safetensors")["threshold_1"][None])
    found = CrosslayerTranscoder.from_pretrained(with_row, frozen)  # [1, F], as some write it
    expected = CrosslayerTranscoder.from_pretrained(whole, frozen)
    assert torch.equal(found.reconstruct(READ), expected.reconstruct(READ))


@pytest.mark.parametrize(
    ("file", "tensors", "said"),
    [
        ("W_enc_1.safetensors", {"b_enc_1": torch.full((24,), torch.nan)}, "a weight of layer 1 is not finite"),
        ("W_enc_0.safetensors", {"W_enc_0": torch.zeros(24)}, r"W_enc_0 is \[24\], and should be"),
        ("W_enc_0.safetensors", {"b_enc_0": torch.ones(24, dtype=torch.int64)}, "layer 0 is no float: torch.int64"),
        ("config.yaml", "model_kind: [", "config.yaml cannot be read"),
        (
            "config.yaml",
            f"model_kind: {KIND}\nfeature_input_hook: [a]\n",
            "feature_input_hook='a list of 1'",
        ),
    ],
)
def test_damage_is_named_before_anything_is_computed(file: str, tensors: Any, said: str, tmp_path: Path) -> None:
    export(small_lens(), tmp_path / "clt")
    if isinstance(tensors, str):
        (tmp_path / "clt" / file).write_text(tensors)
    else:
        change(tmp_path / "clt", file, **tensors)
    with pytest.raises(BadInput, match=said):
        read_export(tmp_path / "clt", shared_lm("llama"))
