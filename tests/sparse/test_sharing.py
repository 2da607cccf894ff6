"""Features spread over two real processes train as one process does, go on exactly, and only with as many of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transcoder_runs import STEPS, arguments, blocks, logged, trainer, transcoder
from two_processes import in_two_processes

from consistency_lens.activations.blocks import Blocks
from consistency_lens.base.engines.engine import Engine
from consistency_lens.errors import BadInput
from consistency_lens.sparse.coding.entries import Entries
from consistency_lens.sparse.coding.nonlinear import batchtopk_mask
from consistency_lens.sparse.coding.sharing import Shards

KINDS: dict[str, dict[str, Any]] = {
    "topk": {"k": 4},
    "per-layer": {"k": 4, "crosslayer": False},
    "jumprelu": {"nonlinearity": "jumprelu", "k": None, "skip": True},
    "tied": {"nonlinearity": "jumprelu", "k": None, "tied_decoder": True},
}
TRAINED: dict[str, Any] = {
    "adam_epsilon": 1e-3,
    "revive_steps": 0,
    "dead_after": 100,
    "kl_weight": "0.1",
    "kl_documents": 2,
    "sparsity_weight": "0.01",
}
SAVED = {"save_strategy": "steps", "save_steps": STEPS // 2, "eval_strategy": "steps", "eval_steps": STEPS}


def train(rank: int, folder: str, data: str) -> None:
    """Each kind from the start, and the first once more from its middle. Tokens of equal contexts are equal, so that a
    BatchTopK may cut between equal values here; it is compared on others."""
    given: dict[str, Any] = {"data": Blocks.load(data), "shard_features": True, **TRAINED, **SAVED}
    for name, kind in KINDS.items():
        made = trainer(f"{folder}/{name}", transcoder(**kind), **given)
        assert made.lens.layers_in_order[0].encoder[0].shape == (24, 32), "it holds half of the features"
        made.train()
        record(made, f"{folder}/{name}-{rank}.json")
    again = trainer(f"{folder}/again", transcoder(k=4), **given)
    again.train(resume_from_checkpoint=f"{folder}/topk/checkpoint-{STEPS // 2}")
    shards, pre = Shards(rank, 2), torch.randn(20, 48, generator=torch.Generator().manual_seed(0))
    own = shards.own(48)
    assert batchtopk_mask(pre[:, own], 4, shards).equal(batchtopk_mask(pre, 4)[:, own])
    for active in (pre.relu(), torch.cat([torch.zeros(20, 24), pre[:, 24:].relu()], 1), torch.zeros(20, 48)):
        (found,) = shards.whole([active[:, own]])
        assert isinstance(found, Entries) and found.dense().equal(active), "however many each process has"
    record(again, f"{folder}/again-{rank}.json")


def record(made: Any, file: str) -> None:
    numbers = {name: logged(made, name) for name in ("loss", "l0", "dead", "train_sparsity", "grad_norm", "eval_kl")}
    numbers["eval_l0"] = logged(made, "eval_l0")
    bias = made.lens.targets.bias.detach().flatten().tolist()
    Path(file).write_text(json.dumps({"engine": made.engine.name, "bias": bias, **numbers}))


@pytest.mark.distributed
def test_two_processes_that_share_the_features_are_one(tmp_path: Path) -> None:
    in_two_processes(train, str(tmp_path), str(blocks().folder))
    for name, kind in KINDS.items():
        alone = trainer(tmp_path / "alone" / name, transcoder(**kind), **TRAINED, **SAVED)
        alone.train()
        one, other = (json.loads((tmp_path / f"{name}-{rank}.json").read_text()) for rank in (0, 1))
        assert one.pop("bias") == pytest.approx(other.pop("bias"), abs=1e-6), "each has a copy, and they stay equal"
        assert one.pop("engine") == other.pop("engine") == "features"
        for number, values in one.items():
            assert values == pytest.approx(logged(alone, number), rel=1e-4, abs=1e-5), (name, number)
            assert values == pytest.approx(other[number], rel=1e-5, abs=1e-6), (name, number)
        found, expected = (
            load_file(tmp_path / place / f"checkpoint-{STEPS}/model.safetensors") for place in (name, f"alone/{name}")
        )
        assert found.keys() == expected.keys()
        worst = max(float((found[key] - expected[key]).abs().max()) for key in found)
        assert worst < 1e-5, name
    whole, again = (json.loads((tmp_path / f"{name}-0.json").read_text()) for name in ("topk", "again"))
    assert again == whole
    ends = [load_file(tmp_path / place / f"checkpoint-{STEPS}/model.safetensors") for place in ("topk", "again")]
    assert all(ends[0][key].equal(ends[1][key]) for key in ends[0])
    with pytest.raises(BadInput, match="it was written by features with 2 processes, this is alone with 1 process"):
        trainer(tmp_path / "one", transcoder(k=4)).train(str(tmp_path / f"topk/checkpoint-{STEPS}"))


def test_what_cannot_be_dealt_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"features=49\. Use a multiple of 2"):
        Shards(0, 2).require(49, across_layers=False)
    with pytest.raises(BadInput, match="across_layers"):
        Shards(0, 2).require(48, across_layers=True)
    assert Engine.of(arguments(tmp_path, shard_features=True)).name == "alone"
