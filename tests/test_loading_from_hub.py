"""What `from_pretrained` takes beside a name: dtype, cache, subfolder and the like, with a Hub on loopback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from extracting import saved_model
from huggingface_hub import HfApi
from lens_runs import SITE, stirred, tiny_lens
from tiny import shared_lm
from transformers import BitsAndBytesConfig

from consistency_lens import AutoLens, BadInput, ConsistencyLens, FrozenLM, ProvenanceMismatch, hub
from consistency_lens.frozen.loading.source import commit_of

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
from hub_client import HubClient
from hub_server import Hub

TEXT = "w1 w2 w3 w4"


def says(lens: Any) -> list[str]:
    return [row["explanation"] for row in lens.explain(TEXT)]


# ---- these functions run in the client's process


def publish(model: str, lenses: str, folder: str) -> dict[str, list[str]]:
    """A frozen model in a folder of one repository, and two of its lenses in folders of another."""
    hub.create(model)
    HfApi().upload_folder(repo_id=model, folder_path=saved_model(), path_in_repo="steps/3")
    frozen = FrozenLM.from_pretrained(model, subfolder="steps/3")
    said = {}
    hub.create(lenses)
    for seed in (0, 1):
        lens = stirred(tiny_lens(frozen, trainable="projections"), seed=seed).eval()
        lens.save_pretrained(Path(folder) / str(seed))
        HfApi().upload_folder(repo_id=lenses, folder_path=Path(folder) / str(seed), path_in_repo=f"layers/{seed}")
        said[f"layers/{seed}"] = says(lens)
    return said


def record_of(model: str, **how: Any) -> tuple[str, str]:
    origin = FrozenLM.from_pretrained(model, **how).provenance(SITE)
    return origin.model_id, origin.weights


def open_all(lenses: str, **how: Any) -> dict[str, list[str]]:
    return {name: says(AutoLens.from_pretrained(lenses, subfolder=name, **how)) for name in ("layers/0", "layers/1")}


def open_one(lenses: str, how: dict[str, Any]) -> tuple[str, str, list[str]]:
    lens = AutoLens.from_pretrained(lenses, **how)
    assert lens.subject is not None
    return str(lens.subject.dtype), str(next(iter(lens.parts()["maps"].values())).dtype), says(lens)


def open_part(lenses: str, model: str, commit: str, cache: str) -> list[list[str]]:
    """By the class, from a cache, with the model from there as well."""
    reach = {"cache_dir": cache, "local_files_only": True}
    frozen = FrozenLM.from_pretrained(model, revision=commit, subfolder="steps/3", **reach)
    return [
        says(ConsistencyLens.from_pretrained(lenses, subject=frozen, subfolder=f"layers/{i}", **reach)) for i in (0, 1)
    ]


def test_lenses_in_folders_of_one_repository(online: tuple[Hub, HubClient], tmp_path: Path) -> None:
    server, client = online
    model, lenses, cache = "me/steps", "me/layers", str(tmp_path / "cache")
    said = client(publish, model, lenses, str(tmp_path))
    assert said["layers/0"] != said["layers/1"]
    repo = server.repos["model", model]
    name, weights = client(open_named, model)
    assert name == model and commit_of(weights) == (repo.heads["main"], "steps/3")
    # The frozen model is found by what the lens says of it: repository, commit and folder.
    assert client(open_there, lenses) == said
    with pytest.raises(BadInput, match="lens='me/layers': the repository holds no"):
        client(open_one, lenses, {})
    with pytest.raises(BadInput, match="the cache does not hold it"):
        client(open_one, lenses, {"subfolder": "layers/0", "cache_dir": cache, "local_files_only": True})
    client(open_one, lenses, {"subfolder": "layers/0", "cache_dir": cache})
    assert len([*Path(cache).glob("models--*")]) == 2
    assert not [*Path(cache).rglob("layers/1/*")], "of a lens that was not asked for, nothing is fetched"
    client(open_one, lenses, {"subfolder": "layers/1", "cache_dir": cache})
    # From here on the Hub is gone: what a cache holds is enough, and another cache is empty.
    del server.repos["model", model], server.repos["model", lenses]
    assert client(open_part, lenses, model, commit_of(weights)[0], cache) == [said["layers/0"], said["layers/1"]]
    served = len(server.served)
    kept = {"subfolder": "layers/1", "cache_dir": cache, "local_files_only": True}
    assert client(open_one, lenses, kept)[2] == said["layers/1"]
    half = client(open_one, lenses, kept | {"dtype": "bfloat16"})
    assert half[:2] == ("torch.bfloat16", "torch.float32")
    assert len(server.served) == served


def open_named(model: str) -> tuple[str, str]:
    return record_of(model, subfolder="steps/3")


def open_there(lenses: str) -> dict[str, list[str]]:
    return open_all(lenses)


# ---- and these need no Hub


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    frozen = FrozenLM.from_pretrained(saved_model())
    stirred(tiny_lens(frozen, trainable="lora")).save_pretrained(tmp_path / "all" / "layer" / "lens")
    return tmp_path / "all"


def test_a_subfolder_may_hold_a_run(saved: Path) -> None:
    lens = AutoLens.from_pretrained(saved, subject=saved_model(), subfolder="layer")
    assert says(lens) == says(AutoLens.from_pretrained(saved / "layer" / "lens", subject=saved_model()))
    named = ConsistencyLens.from_pretrained(
        saved, subject=FrozenLM.from_pretrained(saved_model()), subfolder="layer/lens"
    )
    assert says(named) == says(lens)


@pytest.mark.parametrize("subfolder", ["../all", "/etc", "layer/../..", "*"])
def test_a_subfolder_does_not_lead_out(saved: Path, subfolder: str) -> None:
    for load in (AutoLens.from_pretrained, ConsistencyLens.from_pretrained):
        with pytest.raises(BadInput, match="subfolder="):
            load(saved, subfolder=subfolder)
    if subfolder != "*":
        with pytest.raises(BadInput, match="subfolder="):
            FrozenLM.from_pretrained(saved_model(), subfolder=subfolder)


def test_a_subfolder_that_is_not_there(saved: Path) -> None:
    with pytest.raises(BadInput, match="subfolder='nowhere': there is no such folder"):
        AutoLens.from_pretrained(saved, subfolder="nowhere")
    with pytest.raises(BadInput, match="subfolder='nowhere'"):
        FrozenLM.from_pretrained(saved_model(), subfolder="nowhere")


def test_another_dtype_is_wanted_or_refused(saved: Path) -> None:
    lens = AutoLens.from_pretrained(saved, subject=saved_model(), subfolder="layer", dtype="bfloat16")
    assert lens.subject is not None and lens.subject.dtype == torch.bfloat16
    assert all(p.dtype == torch.float32 for part in lens.parts().values() for p in part.values())
    assert len(lens.explain(TEXT)) == 4
    half = FrozenLM.from_pretrained(saved_model(), dtype="bfloat16")
    with pytest.raises(ProvenanceMismatch, match="bfloat16"):
        ConsistencyLens.from_pretrained(saved, subject=half, subfolder="layer/lens")
    named = ConsistencyLens.from_pretrained(saved, subject=half, subfolder="layer/lens", ignore=["dtype"])
    assert named.explain(TEXT) == lens.explain(TEXT)
    # What is not ignored still has to match.
    with pytest.raises(ProvenanceMismatch, match="weights"):
        ConsistencyLens.from_pretrained(saved, subject=shared_lm("gpt2"), subfolder="layer/lens", ignore=["dtype"])


@pytest.mark.parametrize(
    ("name", "value"),
    [("dtype", "bfloat16"), ("quantization_config", BitsAndBytesConfig(load_in_8bit=True)), ("device_map", "cpu")],
)
def test_how_to_load_what_is_not_loaded_here(saved: Path, name: str, value: Any) -> None:
    frozen = FrozenLM.from_pretrained(saved_model())
    with pytest.raises(BadInput, match="the frozen model that is loaded so"):
        ConsistencyLens.from_pretrained(saved / "layer" / "lens", subject=frozen, **{name: value})
    if name != "device_map":  # as ever, that is for what is loaded
        with pytest.raises(BadInput, match=f"{name}=.*the model is loaded already"):
            AutoLens.from_pretrained(saved / "layer", subject=frozen, **{name: value})


@pytest.mark.parametrize("kind", ["object", "dict"])
def test_a_quantization_config_is_that_of_transformers(saved: Path, kind: str) -> None:
    pytest.importorskip("bitsandbytes")
    own: Any = BitsAndBytesConfig(load_in_8bit=True)
    given = own if kind == "object" else {"quant_method": "bitsandbytes", "load_in_8bit": True}
    by_name = FrozenLM.from_pretrained(saved_model(), quantization="8bit")
    frozen = FrozenLM.from_pretrained(saved_model(), quantization_config=given)
    ids = {"input_ids": torch.tensor([[1, 5, 6, 7]])}
    assert frozen.quantization == "8bit" and torch.equal(frozen.logits(ids), by_name.logits(ids))
    lens = AutoLens.from_pretrained(saved / "layer", subject=saved_model(), quantization_config=given)
    assert lens.subject is not None and lens.subject.quantization == "8bit" and len(lens.explain(TEXT)) == 4


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"quantization": "8bit", "quantization_config": {"load_in_8bit": True}}, "quantization='8bit' says the same"),
        ({"quantization_config": "8bit"}, "quantization_config='str'"),
        ({"gguf_file": "a.gguf", "quantization_config": {}}, "no such file"),
    ],
)
def test_a_quantization_config_that_cannot_be(how: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput) as caught:
        FrozenLM.from_pretrained(saved_model(), **how)
    assert said in str(caught.value)


def test_a_quantised_checkpoint_is_not_quantised_again(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in saved_model().iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    quantised = config | {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    (folder / "config.json").write_text(json.dumps(quantised))
    with pytest.raises(BadInput, match="the checkpoint itself is quantised: gptq"):
        FrozenLM.from_pretrained(folder, quantization_config=BitsAndBytesConfig(load_in_8bit=True))
