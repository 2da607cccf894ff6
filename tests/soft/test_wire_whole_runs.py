"""Whole trainings of a wire through `run_lens.py`: killed and started again, and in two processes under an engine."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml
from extracting import random_texts, run, saved_model, start
from passage_models import passage_models
from safetensors.torch import load_file
from whole_runs import losses

from consistency_lens import cli
from consistency_lens.soft.modeling import LatentWire

sys.path.insert(0, str(Path(__file__).parents[1] / "ds_configs"))
from launching import engine_words, launch, logged, witness

STEPS = 8
TERMS = ["loss", "loss/ce", "loss/kd"]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For two models; the passages lie there already."""
    folder, lm = tmp_path_factory.mktemp("wire"), passage_models()["bytes"]
    lm.model.save_pretrained(folder / "bytes")
    lm.tokenizer.save_pretrained(folder / "bytes")
    (folder / "texts.txt").write_text("\n".join(random_texts(60, shortest=16, longest=24)))
    record = {
        "family": "soft",
        "model_name_or_path": str(saved_model()),
        "other_models": [f"bytes={folder / 'bytes'}"],
        "train_file": [str(folder / "texts.txt")],
        "activations_dir": str(folder / "passages"),
        "passage_words": 10,
        "prompt_words": 2,
        "answer_words": 2,
        "reconstruction_share": 0.0,  # whole words have no token for its opening
        "validation_fraction": 0.2,
        "test_fraction": 0.2,
        "ratio": 2.0,
        "compressor_layers": 1,
        "bits": 8,
        "kd_weight": "0.5",
        "max_steps": STEPS,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "learning_rate": 1e-3,
        "eval_strategy": "no",
        "save_steps": 2,
        "logging_steps": 1,
        "ema_decay": 0.9,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    path = folder / "wire.yaml"
    path.write_text(yaml.safe_dump(record))
    assert cli.main(["extract", "--config", str(path)]) == 0
    return path


def words_for(recipe: Path, folder: Path, *more: str) -> list[str]:
    rows = str(recipe.parent / "passages")
    return ["train", "--config", str(recipe), "--activations", rows, "--output_dir", str(folder), *more]


def require_same(folder: Path, expected: Path) -> None:
    """The same weights in the lens, and in its moving average where that was asked for."""
    files = sorted(path.relative_to(expected) for path in expected.glob("lens*/**/*.safetensors"))
    assert len(files) >= 2
    for file in files:
        found = load_file(folder / file)
        for name, tensor in load_file(expected / file).items():
            assert torch.equal(found[name], tensor), (file, name)


@pytest.mark.slow
def test_a_training_that_was_killed_ends_as_one_that_was_not(recipe: Path, tmp_path: Path) -> None:
    words = words_for(recipe, tmp_path / "whole")
    code, said = run(words, tmp_path / "log")
    assert code == 0, said
    again = words_for(recipe, tmp_path / "run", "--resume_from_checkpoint", "auto", "--disable_tqdm", "false")
    running = start(again, tmp_path / "log-0")
    wait_for(tmp_path / "run" / "checkpoint-4" / "trainer_state.json")
    os.kill(running.process.pid, signal.SIGKILL)
    code, _ = running.end()
    assert code == -signal.SIGKILL and not (tmp_path / "run/lens").exists()
    code, said = run(again, tmp_path / "log-1")
    assert code == 0 and not re.search(rf"(?m) 1/{STEPS}\b", said), said
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    require_same(tmp_path / "run", tmp_path / "whole")


def wait_for(file: Path) -> None:
    until = time.monotonic() + 300
    while not file.is_file():
        assert time.monotonic() < until, "it hangs"
        time.sleep(0.005)


@pytest.mark.distributed
def test_two_processes_train_as_one(recipe: Path, tmp_path: Path) -> None:
    """Under DDP and ZeRO-2; the receiver of a step is the same in both processes. Rounding to few bits, and Adam where
    gradients are next to nothing, make more of the last digits at each step: so the steps are small and few."""
    pytest.importorskip("deepspeed")
    few = ["--max_steps", "4", "--learning_rate", "1e-4", "--bits", "16"]
    plain = ["--ema_decay", "0", "--save_strategy", "no", *few]
    twice = [*plain, "--per_device_train_batch_size", "8"]
    launch("alone", [words_for(recipe, tmp_path / "alone", *twice)], tmp_path / "launch-alone")
    expected = logged(tmp_path / "alone", *TERMS)
    steps = expected["loss"]
    assert len(steps) == 4 and min(abs(a - b) for a, b in pairwise(steps)) > 0.02 * max(steps), (
        "other rows, other loss"
    )
    for engine in ("ddp", "zero2"):
        folder = tmp_path / engine
        words = words_for(recipe, folder, *plain, *engine_words(engine))
        launch(engine, [words], tmp_path / f"launch-{engine}")
        assert [(each["world_size"], each["engine"]) for each in witness(folder)] == [(2, engine)] * 2
        found = logged(folder, *TERMS)
        for name, values in expected.items():
            assert found[name] == pytest.approx(values, rel=1e-3), (engine, name)
        assert LatentWire.from_pretrained(folder / "lens").config.names == ["base", "bytes"]
