"""What the first version of the library saved is read for ever.

The files below are written by hand, as the first version wrote them, with nothing of ours. A later version has to load
them, say the same words and restore the same vectors. If this test fails, the reader has to be mended, not the test.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from tiny import VOCABULARY, tiny_lm, tiny_tokenizer

from consistency_lens import AutoLens, ConsistencyLens, FrozenLM

SITE, SIZE, LAYERS, INNER, RANK = "resid_post.1", 32, 4, 64, 2
# Of the frozen model, as the first version named them. A new way to hash would refuse every lens there is.
WEIGHTS = "sha256:f08494668bc241fb33f21cf95aa227562e5ea3c1fd30e33db0a1b5dafc166135"
TOKENIZER = "sha256:9c83ec302dae219518a5606682184e8637b6b3a71c321819be0b5fcb9cff07d7"
SUBJECT = {
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": SIZE,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "head_dim": 8,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
SHAPES = {
    "self_attn.q_proj": (SIZE, SIZE),
    "self_attn.k_proj": (16, SIZE),
    "self_attn.v_proj": (16, SIZE),
    "self_attn.o_proj": (SIZE, SIZE),
    "mlp.gate_proj": (INNER, SIZE),
    "mlp.up_proj": (INNER, SIZE),
    "mlp.down_proj": (SIZE, INNER),
}
MAPS = {f"{part}.map.{name}" for part in ("decoder", "encoder") for name in ("weight", "bias")}


def tensor(name: str, *shape: int, scale: float = 0.2) -> np.ndarray:
    """Numbers that depend on the name alone, and on no generator of any library."""
    digest = hashlib.shake_256(name.encode()).digest(4 * int(np.prod(shape)))
    whole = np.frombuffer(digest, dtype="<u4").astype(np.float64) / 2**32
    return ((whole - 0.5) * 2 * scale).astype(np.float32).reshape(shape)


def language_model(name: str, layers: int) -> dict[str, np.ndarray]:
    found = {"model.embed_tokens.weight": tensor(f"{name}.embed", VOCABULARY, SIZE, scale=1.0)}
    for i in range(layers):
        at = f"model.layers.{i}"
        found |= {f"{at}.{key}.weight": tensor(f"{name}.{at}.{key}", *shape) for key, shape in SHAPES.items()}
        for norm in ("input_layernorm", "post_attention_layernorm"):
            found[f"{at}.{norm}.weight"] = 1 + tensor(f"{name}.{at}.{norm}", SIZE)
    found["model.norm.weight"] = 1 + tensor(f"{name}.norm", SIZE)
    return found | {"lm_head.weight": tensor(f"{name}.head", VOCABULARY, SIZE)}


def adapter(part: str, layers: int) -> dict[str, np.ndarray]:
    found = {}
    for i in range(layers):
        for key, (rows, columns) in SHAPES.items():
            at = f"base_model.model.model.layers.{i}.{key}"
            found[f"{at}.lora_A.weight"] = tensor(f"{part}.{at}.A", RANK, columns, scale=0.5)
            found[f"{at}.lora_B.weight"] = tensor(f"{part}.{at}.B", rows, RANK, scale=0.5)
    return found


def write(folder: Path, kind: str) -> None:
    """The files of a lens, as the first version laid them out."""
    folder.mkdir(exist_ok=True)
    files = {
        "model.safetensors": {
            name: tensor(name, *((SIZE, SIZE) if name.endswith("weight") else (SIZE,))) for name in MAPS
        }
    }
    for part, layers in (("decoder", LAYERS), ("encoder", 2)):
        settings: dict[str, Any] = SUBJECT | {"num_hidden_layers": layers}
        if kind == "full":
            files[f"{part}/model.safetensors"] = language_model(part, layers)
        elif kind == "lora":
            files[f"{part}/adapter_model.safetensors"] = adapter(part, layers)
            settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": 4, "target_modules": [], "task_type": None}
        if kind != "projections":
            (folder / part).mkdir()
            name = "config.json" if kind == "full" else "adapter_config.json"
            (folder / part / name).write_text(json.dumps(settings))
    for file, tensors in files.items():
        save_file(tensors, folder / file, metadata={"format": "pt"})
    tiny_tokenizer().save_pretrained(folder)
    config = {
        "model_type": "consistency_lens",
        "architectures": ["ConsistencyLens"],
        "transformers_version": "5.23.0",
        "dtype": "float32",
        "activation_norm": 7.5,
        "code_length": 5,
        "embedding_norm": 1.5,
        "encoder_trainable": kind,
        "hidden_size": SIZE,
        "injection": "embedding",
        "lora_alpha": 4,
        "lora_rank": RANK,
        "never_ids": [0, 1, 3],
        "pad_id": 0,
        "placeholder_id": 0,
        "prompt": "w1 w2 <A> w3",
        "prompt_ids": [1, 5, 6, 0, 7],
        "provenance": {
            "model_id": "tiny-llama",
            "weights": WEIGHTS,
            "tokenizer": TOKENIZER,
            "sites": [SITE],
            "dtype": "float32",
            "quantization": "none",
            "versions": {"torch": "2.13.0", "transformers": "5.23.0", "consistency-lens": "0.1.0"},
        },
        "sites": [SITE],
        "start_id": 1,
        "stop_id": 2,
        "subject": SUBJECT,
        "trainable": kind,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))


@pytest.fixture(scope="module")
def frozen_weights() -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in language_model("subject", LAYERS).items()}


def subject(weights: dict[str, torch.Tensor]) -> FrozenLM:
    lm = tiny_lm("llama")
    lm.model.load_state_dict(weights)
    return FrozenLM(lm.model, tiny_tokenizer(), model_id="tiny-llama")


# What the first version said of these files: words greedily chosen, and the beginning of the restored vectors.
GOLDEN: dict[str, tuple[list[str], list[list[float]]]] = {
    "full": (
        ["w47 w54 w51 w43 w78", "w51 w56 w84 w1 w1", "w47 w54 w51 w43 w78", "w47 w54 w24 w73 w66"],
        [
            [0.39226, 0.21014, -0.95984, -0.54965],
            [0.52885, 0.79754, -0.31175, -0.90863],
            [0.39226, 0.21014, -0.95984, -0.54965],
            [0.28833, -0.04208, 0.16378, 0.53426],
        ],
    ),
    "lora": (
        ["w10 w66 w18 w54 w18", "w10 w5 w54 w77 w10", "w5 w75 w10 w54 w56", "w66 w44 w78 w18 w74"],
        [
            [-1.40408, -4.81966, -2.10789, -1.07718],
            [-0.73631, 5.37479, 5.91899, -0.7339],
            [-1.46961, -2.00071, -5.4787, -1.61243],
            [-1.43287, -8.57371, -2.52533, 1.19238],
        ],
    ),
    "projections": (
        ["w27 w78 w25 w46 w80", "w77 w36 w32 w36 w32", "w77 w36 w32 w36 w32", "w77 w36 w32 w33 w40"],
        [
            [-0.53482, 0.13019, -1.09986, -0.24883],
            [-0.00114, -0.22702, 0.1191, -0.3347],
            [-0.00114, -0.22702, 0.1191, -0.3347],
            [0.36896, -0.59034, -0.5515, -0.38426],
        ],
    ),
}
# sha256 over names and contents of the tensor files.
FILES = {"full": "55a07c4e6cb9c6b7", "lora": "4f2be8f45bf92542", "projections": "a93245a548c1dfed"}


def vectors() -> torch.Tensor:
    return torch.from_numpy(tensor("vectors", 4, SIZE, scale=2.0))


def says(lens: ConsistencyLens) -> tuple[list[str], torch.Tensor]:
    batch = {"activations": {SITE: vectors()}}
    code = lens.compress(batch)
    return [row["explanation"] for row in lens.explain(code)], lens.restore(code, batch)[0].value


@pytest.mark.parametrize("kind", ["full", "lora", "projections"])
def test_what_the_first_version_saved_says_what_it_said(
    kind: str, frozen_weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    frozen = subject(frozen_weights)
    write(tmp_path, kind)
    lens = AutoLens.from_pretrained(tmp_path, subject=frozen)
    assert isinstance(lens, ConsistencyLens)
    words, restored = GOLDEN[kind]
    said, values = says(lens)
    assert said == words
    torch.testing.assert_close(values[:, :4], torch.tensor(restored), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["full", "lora", "projections"])
def test_the_files_are_those_of_the_first_version(kind: str, tmp_path: Path) -> None:
    write(tmp_path, kind)
    digest = hashlib.sha256()
    for path in sorted(tmp_path.rglob("*.safetensors")):
        digest.update(path.relative_to(tmp_path).as_posix().encode() + path.read_bytes())
    assert digest.hexdigest()[:16] == FILES[kind]


@pytest.mark.parametrize("kind", ["full", "lora", "projections"])
def test_a_new_save_has_the_same_tensors_under_the_same_names(
    kind: str, frozen_weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    from safetensors.numpy import load_file

    frozen = subject(frozen_weights)
    write(tmp_path / "first", kind)
    ConsistencyLens.from_pretrained(tmp_path / "first", frozen).save_pretrained(tmp_path / "now")
    for path in sorted((tmp_path / "first").rglob("*.safetensors")):
        before, now = load_file(path), load_file(tmp_path / "now" / path.relative_to(tmp_path / "first"))
        assert before.keys() == now.keys()
        assert all(np.array_equal(before[name], now[name]) for name in before)
