"""Two real processes train every family as one does, with whole copies and with ZeRO-2, which goes on exactly."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from extracting import ROOT
from family_rows import ROWS, STEPS, Row, know_all, logged
from safetensors.torch import load_file
from two_processes import in_two_processes

from consistency_lens.auto import AutoLens
from consistency_lens.base.trainer import LensTrainer
from consistency_lens.errors import BadInput

pytestmark = pytest.mark.distributed
SHARED = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": STEPS}


def with_zero() -> dict[str, Any]:
    """DeepSpeed on the CPU. It would compile an op for shared memory at its first collective, and does without."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    importlib.import_module("deepspeed.comm.torch").build_shm_op = lambda: None
    return {"deepspeed": str(ROOT / "ds_configs/zero2.json")}


def train(rank: int, name: str, folder: str, data: str, zero: bool) -> None:
    """Half of the rows in each process; with ZeRO-2 once more from the middle."""
    know_all()
    row, engine = ROWS[name], with_zero() if zero else {}
    changes = SHARED | dict(row.together) | engine | {"per_device_train_batch_size": row.half}
    trainer = row.trainer(f"{folder}/whole", data, **changes)
    trainer.train()
    record(trainer, f"{folder}/{rank}.json")
    if zero:
        again = row.trainer(f"{folder}/again", data, **changes)
        again.train(resume_from_checkpoint=f"{folder}/whole/checkpoint-2")
        record(again, f"{folder}/again-{rank}.json")


def record(trainer: LensTrainer, file: str) -> None:
    """What is the same in all processes."""
    said = {"engine": trainer.engine.name, "processes": trainer.args.world_size, "measured": trainer.measure()}
    losses = [entry["loss"] for entry in logged(trainer) if "loss" in entry]
    sums = {name: float(p.detach().double().sum()) for name, p in trainer.trainable.items()}
    Path(file).write_text(json.dumps(said | {"losses": losses, "sums": sums}))


@pytest.fixture(scope="module")
def alone(row: Row, tmp_path_factory: pytest.TempPathFactory) -> LensTrainer:
    turns = 2 if row.noisy else 1
    batch = {"per_device_train_batch_size": 2 * row.half // turns, "gradient_accumulation_steps": turns}
    trainer = row.trainer(tmp_path_factory.mktemp("alone"), **SHARED, **row.together, **batch)
    trainer.train()
    return trainer


@pytest.mark.parametrize("engine", ["ddp", "zero2"])
def test_two_processes_are_one(row: Row, alone: LensTrainer, engine: str, tmp_path: Path) -> None:
    if engine == "zero2":
        pytest.importorskip("deepspeed")
    data = str(row.saved(tmp_path / "data"))
    in_two_processes(train, row.name, str(tmp_path), data, engine == "zero2")
    one, other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert one == other and (one["engine"], one["processes"]) == (engine, 2)
    losses = [entry["loss"] for entry in logged(alone) if "loss" in entry]
    if engine == "zero2" and row.idle:
        assert one["losses"][:2] == pytest.approx(losses[:2], rel=1e-4)
    else:
        assert one["losses"] == pytest.approx(losses, rel=1e-4)
        assert one["measured"] == pytest.approx(alone.measure(), rel=1e-3, abs=1e-4)
        expected = {name: float(p.detach().double().sum()) for name, p in alone.trainable.items()}
        assert one["sums"] == pytest.approx(expected, rel=1e-3, abs=1e-3)
    if engine == "zero2":
        again = json.loads((tmp_path / "again-0.json").read_text())
        assert again == one and again == json.loads((tmp_path / "again-1.json").read_text())
        ends = [tmp_path / f"{each}/checkpoint-{STEPS}" for each in ("whole", "again")]
        first, second = (load_file(end / "model.safetensors") for end in ends)
        assert first.keys() == second.keys() and all(first[key].equal(second[key]) for key in first)
        assert type(AutoLens.from_pretrained(ends[0], subject=row.models())) is type(alone.lens)


def spread(rank: int, folder: str) -> None:
    """A trainer of a wire under ZeRO-3."""
    row = ROWS["soft"]
    given = {"lens": row.lens(), "data": row.data(), "frozen": row.models()}  # before DeepSpeed makes models in parts
    with_zero()
    try:
        row.trainer(folder, **given, deepspeed=str(ROOT / "ds_configs/zero3.json"))
    except BadInput as refused:
        Path(f"{folder}/{rank}.txt").write_text(str(refused))


def test_the_weights_of_several_models_are_not_spread(tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    in_two_processes(spread, str(tmp_path))
    for rank in (0, 1):
        said = (tmp_path / f"{rank}.txt").read_text()
        assert said.startswith("engine='zero3'") and "ds_configs/zero2.json" in said
