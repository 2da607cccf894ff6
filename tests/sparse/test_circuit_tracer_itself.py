"""circuit-tracer itself opens an export: the same features, an attribution graph, and its own scores.

It wants an older transformers than ours, so it gets an environment of its own, which takes minutes to install.
CIRCUIT_TRACER_ENV names the folder of one that is there, or in which it shall stay.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from block_runs import extract_blocks
from extracting import random_texts
from safetensors.torch import load_file
from test_feature_contexts import batches, documents
from tiny import tiny_lm
from torch.utils.data import DataLoader
from transcoder_runs import arguments

from consistency_lens.activations.blocks import BySite
from consistency_lens.frozen import FrozenLM
from consistency_lens.sparse.features.describing import describe_features
from consistency_lens.sparse.modeling import CrosslayerTranscoder
from consistency_lens.sparse.trainer import CrosslayerTranscoderTrainer
from consistency_lens.sparse.use.circuit_tracer import export, read_export

pytestmark = pytest.mark.external
VERSION, MODEL, COMMIT = "0.5.0", "gpt2", "0" * 40
IDS = [1, 17, 42, 8, 63, 5, 29, 77, 31, 12]
SCRIPT = Path(__file__).with_name("circuit_tracer_run.py")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that has circuit-tracer."""
    place = Path(os.environ.get("CIRCUIT_TRACER_ENV") or tmp_path_factory.mktemp("environment") / "env")
    found = place / "bin/python"
    if not found.is_file():
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        torch_here = f"torch=={torch.__version__}"
        words = [str(found), "-m", "pip", "install", "--quiet", torch_here, f"circuit-tracer=={VERSION}"]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"circuit-tracer cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, CrosslayerTranscoder]:
    """A transcoder of a tiny GPT-2, with thresholds in the place of its TopK and with contexts; and beside it the
    same before any training."""
    place, frozen = tmp_path_factory.mktemp("training"), tiny_lm("gpt2")
    texts = random_texts(400, shortest=6, longest=24)
    blocks = extract_blocks(place / "blocks", texts, frozen, sites=["resid_mid.*", "mlp_out.*"], tokens_per_block=1000)
    settings = {"features": 256, "nonlinearity": "topk", "k": 12}
    lens = CrosslayerTranscoder.from_subject(frozen, **settings)
    more = {
        "max_steps": 300,
        "logging_steps": 100,
        "per_device_train_batch_size": 256,
        "learning_rate": 4e-3,
        "eval_strategy": "no",
    }
    CrosslayerTranscoderTrainer(lens, arguments(place / "run", **more), blocks, frozen=frozen).train()
    control = CrosslayerTranscoder.from_subject(frozen, seed=1, **settings)
    control.standardiser.load_state_dict(lens.standardiser.state_dict())
    control.targets.standardiser.load_state_dict(lens.targets.standardiser.state_dict())
    loader = DataLoader(blocks.tokens("train"), batch_size=1024, collate_fn=BySite(blocks.sites))
    read = [lens.read_of(batch) for batch in loader]
    found = {"lens": lens.eval().calibrated(read), "random": control.eval().calibrated(read)}
    describe_features(found["lens"], batches(documents(60), 8))
    return found


def cached(frozen: FrozenLM, home: Path) -> None:
    """The model in a cache of the Hub, under a name that TransformerLens knows."""
    folder = home / f"hub/models--{MODEL}"
    snapshot = folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text(COMMIT)
    frozen.model.save_pretrained(snapshot)
    frozen.tokenizer.save_pretrained(snapshot)
    # An older transformers knows other names.
    change(snapshot / "config.json", n_ctx=frozen.config.n_positions, torch_dtype="float32")
    change(snapshot / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast", backend=None)


def change(path: Path, **values: Any) -> None:
    record = json.loads(path.read_text()) | values
    path.write_text(json.dumps({name: value for name, value in record.items() if value is not None}))


def test_it_opens_an_export(python: Path, made: dict[str, CrosslayerTranscoder], tmp_path: Path) -> None:
    frozen = made["lens"].subject
    assert frozen is not None
    cached(frozen, tmp_path / "home")
    exports = {name: export(lens, tmp_path / name) for name, lens in made.items()}
    known = made["lens"].contexts
    assert known is not None
    row = known.take([int(np.argmax(known.table["active"].to_numpy()))])[0]
    settings = {
        "model": MODEL,
        "feature": [row["layer"], row["feature"]],
        "ids": IDS,
        "exports": {name: str(folder) for name, folder in exports.items()},
        "features": str(tmp_path / "features.safetensors"),
        "graph": str(tmp_path / "graph"),
    }
    (tmp_path / "graph").mkdir()
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    environment = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PATH": os.environ["PATH"]}
    words = [str(python), str(SCRIPT), str(tmp_path / "settings.json")]
    done = subprocess.run(
        words, capture_output=True, text=True, env=environment | {"OMP_NUM_THREADS": "1", "HOME": str(tmp_path)}
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    theirs = load_file(tmp_path / "features.safetensors")

    ids = {"input_ids": torch.tensor([IDS])}
    own = read_export(exports["lens"], frozen)
    read = frozen.read(ids, own.config.read_sites)
    stacked = torch.stack([read[site][0] for site in own.config.read_sites], 1)
    ours = torch.stack([f if isinstance(f, torch.Tensor) else f.dense() for f in own.encode(stacked)]).detach()
    ours[:, 0] = 0  # circuit-tracer leaves the first token out
    largest = float(ours.abs().max())
    worst = float((theirs["features"] - ours).abs().max())
    drift = float((theirs["logits"] - frozen.logits(ids)[0]).abs().max())
    print(f"\n{int((ours > 0).sum())} active features, the largest {largest:.2f}")
    print(f"worst difference {worst:.1e}; of the model's logits {drift:.1e}")
    for name in exports:
        print(f"{name}: {found[name]}")
    assert torch.equal(theirs["features"] > 0, ours > 0)
    assert worst <= 1e-6 * max(1.0, largest) and drift < 1e-4
    for name in exports:
        graph = found[name]
        assert graph["transcoder"] == "CrossLayerTranscoder" and graph["finite"] and graph["edges"] > 0
        assert 0 < graph["replacement"] < 1 and 0 < graph["completeness"] < 1
    assert found["lens"]["nodes"] == int((ours > 0).sum())
    assert found["lens"]["replacement"] > found["random"]["replacement"] + 0.1
    assert found["lens"]["completeness"] > found["random"]["completeness"]
    assert any(name.startswith("lens") for name in found["graph_files"])
    assert found["page"]["index"] == row["feature"]
    assert found["page"]["act_max"] == pytest.approx(row["max"]) and row["max"] > 0
