"""The toy family on the Hub and in two processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_family import FAMILY
from toy_runs import toy_lens, toy_models, toy_passages, toy_trainer
from two_processes import in_two_processes

from consistency_lens.auto import FAMILIES, AutoLens

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
from hub_client import HubClient
from hub_server import Hub


def push_and_load(name: str) -> tuple[str, bool, list[str]]:
    """In the process of the client: to the Hub and back by its name alone, the models given."""
    FAMILIES["toy"] = FAMILY
    lens = toy_lens().eval()
    address = lens.push_to_hub(name)
    found = AutoLens.from_pretrained(name, subject=toy_models())
    ours, theirs = (dict(each.named_parameters()) for each in (lens, found))
    return address, all(torch.equal(ours[key], theirs[key]) for key in ours), list(found.models or ())


def test_it_goes_to_the_hub_and_comes_back(online: tuple[Hub, HubClient]) -> None:
    server, client = online
    address, same, names = client(push_and_load, "me/toy")
    assert "me/toy" in address and same and names == ["words", "bytes"]
    repo = server.repos["model", "me/toy"]
    assert set(repo.commits[repo.heads["main"]]) >= {"config.json", "model.safetensors", "README.md"}


def train(rank: int, folder: Path) -> None:
    """Two processes with half of the rows each."""
    trainer = toy_trainer(folder, per_device_train_batch_size=2, max_steps=4, eval_strategy="steps", eval_steps=4)
    trainer.train()
    record(trainer, folder / f"record-{rank}.json")


def record(trainer: Any, path: Path) -> None:
    sums = {name: float(p.detach().double().sum()) for name, p in trainer.lens.named_parameters()}
    losses = [entry["loss/kl"] for entry in trainer.state.log_history if "loss/kl" in entry]
    path.write_text(json.dumps({"sums": sums, "losses": losses, "measured": trainer.measure()}))


@pytest.mark.distributed
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    alone = toy_trainer(tmp_path / "alone", per_device_train_batch_size=4, max_steps=4)
    (tmp_path / "alone").mkdir(exist_ok=True)
    alone.train()
    record(alone, tmp_path / "alone/record.json")
    (tmp_path / "both").mkdir()
    in_two_processes(train, tmp_path / "both")
    one, other = (json.loads((tmp_path / f"both/record-{rank}.json").read_text()) for rank in (0, 1))
    expected = json.loads((tmp_path / "alone/record.json").read_text())
    assert one == other
    assert one["losses"] == pytest.approx(expected["losses"], rel=1e-3)
    assert len(toy_passages().splits["train"]) > 16
