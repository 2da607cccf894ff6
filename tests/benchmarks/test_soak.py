"""`benchmarks/soak.py`: a short one on a tiny model, and that it would see a difference."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from extracting import ROOT, extract_to, random_texts, saved_model

from consistency_lens import FrozenLM, cli

SMALL = [
    *["--use_cpu", "--code_length", "3", "--prompt", "w1 <A> w2", "--warm_steps", "10", "--max_steps", "24"],
    *["--per_device_train_batch_size", "6", "--eval_strategy", "steps", "--eval_steps", "6", "--eval_rows", "16"],
    *["--save_steps", "3", "--save_total_limit", "2", "--logging_steps", "1", "--kl_horizon", "0", "--rollouts", "2"],
    *["--ema_decay", "0.9", "--tail_baseline", "false", "--sample_rows", "4"],
]


@pytest.fixture
def soak(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return importlib.import_module("soak")


@pytest.mark.slow
def test_killed_twice_it_ends_the_same_and_a_difference_would_be_seen(soak: ModuleType, tmp_path: Path) -> None:
    rows = tmp_path / "rows"
    texts = random_texts(40, shortest=8, longest=16)
    extract_to(rows, texts, FrozenLM.from_pretrained(saved_model()), continuation_length=4)
    words = ["--model_name_or_path", str(saved_model()), "--activations", str(rows), *SMALL]
    alone, killed = soak.soak(words, tmp_path / "out", steps=20, kills=2)
    assert alone["different"] == [] and (alone["kills"], killed["kills"]) == (0, 2)
    assert alone["steps"] == killed["steps"] == 24 and alone["kl_recovered"] == killed["kl_recovered"]
    assert 50 < alone["peak MiB"] < 5000 and "±" in alone["function"] and killed["function"] is None
    assert (tmp_path / "out/soak.png").stat().st_size > 10_000
    folder = tmp_path / "out/undisturbed"
    shutil.copytree(folder, tmp_path / "other")
    history = json.loads((tmp_path / "other/history.json").read_text())
    history[3]["loss"] += 1e-6
    (tmp_path / "other/history.json").write_text(json.dumps(history))
    assert soak.differences(folder, tmp_path / "other") == [f"the log, from step {history[3]['step']}"]


def test_the_words_of_the_demo_are_understood(soak: ModuleType) -> None:
    values = cli.parse(["train", *soak.demo_words(Path("rows"), 2000)]).values
    found = [values[name] for name in ("max_steps", "warm_steps", "eval_steps", "save_steps", "tail_baseline")]
    assert found == [2000, 1000, 100, 50, False] and values["activations"] == "rows"


def test_the_slope_is_that_of_a_line(soak: ModuleType) -> None:
    noise = np.random.default_rng(0).normal(0, 100, 100)
    steps = list(range(1, 101))
    slope, error = soak.Watched(steps, [int(5_000 + 7 * s + n) for s, n in zip(steps, noise, strict=True)]).slope(
        1, 100
    )
    assert abs(slope - 7) < 3 * error < 3
    jump = [100 if s <= 50 else 900 for s in steps]  # the second stage takes more, and neither grows
    assert soak.Watched(steps, jump).slope(1, 50)[0] == soak.Watched(steps, jump).slope(51, 100)[0] == 0
