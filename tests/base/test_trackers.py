"""What trackers get, from the trackers' own files: nothing is sent anywhere."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from lens_runs import trainer_of

from consistency_lens.base.watching import callbacks
from consistency_lens.base.watching.samples import plain
from consistency_lens.card.columns import PREDICTIONS

STEPS = [2, 4]


def train(folder: Path, tracker: str) -> dict[int, list[dict[str, Any]]]:
    """Step -> what a table of it should hold."""
    given = {"report_to": [tracker], "run_name": folder.name, "project": "lens-tests"}
    trainer_of(folder / "run", sample_steps=2, **given).train()
    rows = pq.read_table(folder / "run/samples.parquet").to_pylist()
    pairs = [{side: [tuple(each.values()) for each in row[side]] for side in PREDICTIONS} for row in rows]
    rows = [plain(row | own) for row, own in zip(rows, pairs, strict=True)]
    return {step: [row for row in rows if row["step"] == step] for step in STEPS}


def test_trackio_gets_the_tables_and_the_terms(tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    expected = train(tmp_path, "trackio")
    logs = SQLiteStorage.get_logs("lens-tests", tmp_path.name)
    tables = {entry["train/global_step"]: entry["samples"]["_value"] for entry in logs if "samples" in entry}
    assert tables == expected and len(tables[2]) == 8
    assert sum("train/loss/mse" in entry or "loss/mse" in entry for entry in logs) == 4


def test_wandb_gets_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    wandb.teardown()  # an earlier test may have settled where runs go
    for name, value in {"MODE": "offline", "DIR": tmp_path, "SILENT": "true", "PROJECT": "lens-tests"}.items():
        monkeypatch.setenv(f"WANDB_{name}", str(value))
    expected = train(tmp_path, "wandb")
    wandb.finish()
    files = sorted(tmp_path.glob("wandb/offline-run-*/files/media/table/*.table.json"))
    tables = [json.loads(file.read_text()) for file in files]
    found = {table["data"][0][0]: [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
             for table in tables}  # fmt: skip
    assert found == expected


def test_tensorboard_gets_the_terms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    train(tmp_path, "tensorboard")
    events = EventAccumulator(str(tmp_path / "events")).Reload()
    assert [event.step for event in events.Scalars("train/loss/mse")] == [1, 2, 3, 4]


@pytest.mark.parametrize("there", [True, False])
def test_how_busy_a_gpu_is_or_what_is_missing_for_it_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, there: bool
) -> None:
    for name, value in {"is_available": True, "max_memory_allocated": 3e9, "utilization": 70}.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(callbacks, "find_spec", lambda name: there or None)
    callbacks._can_ask_how_busy.cache_clear()
    with caplog.at_level(logging.INFO, logger="consistency_lens"):
        found = [callbacks.accelerator_load() for _ in range(3)]
    callbacks._can_ask_how_busy.cache_clear()
    assert found == [{"gpu_memory_gb": 3.0} | ({"gpu_utilization": 70.0} if there else {})] * 3
    assert len(caplog.records) == (0 if there else 1) and ("consistency-lens[track]" in caplog.text) is not there
