"""Whole runs that are killed or asked to end from outside, and started again with the same words."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import time
from itertools import cycle
from pathlib import Path

import pytest
import torch
from extracting import Run, extract_to, random_texts, run, saved_model, start
from safetensors.torch import load_file
from whole_runs import losses

from consistency_lens import FrozenLM
from consistency_lens.base.robust.termination import CODE
from consistency_lens.base.saving.checkpoint import checkpoints

pytestmark = pytest.mark.slow
SMALL = [
    *["--use_cpu", "--code_length", "3", "--prompt", "w1 <A> w2", "--warm_steps", "6", "--max_steps", "16"],
    *["--per_device_train_batch_size", "6", "--eval_strategy", "no", "--save_steps", "2", "--save_total_limit", "2"],
    *["--logging_steps", "1", "--kl_horizon", "0", "--rollouts", "2", "--ema_decay", "0.9"],
    *["--resume_from_checkpoint", "auto"],
]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows") / "rows"
    texts = random_texts(40, shortest=8, longest=16)
    extract_to(folder, texts, FrozenLM.from_pretrained(saved_model()), continuation_length=4)
    return folder


def words_for(rows: Path, folder: Path) -> list[str]:
    named = ["--model_name_or_path", str(saved_model()), "--activations", str(rows), "--output_dir", str(folder)]
    return ["train", *named, *SMALL]


def copy_of(rows: Path, folder: Path) -> Path:
    """Beside these no other run has noted its baseline: each trains its own."""
    return shutil.copytree(rows, folder / "rows")


@pytest.fixture(scope="module")
def undisturbed(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    code, said = run(words_for(copy_of(rows, folder), folder / "run"), folder / "log")
    assert code == 0, said
    return folder / "run"


def wait_for(running: Run, line: str) -> None:
    deadline = time.monotonic() + 300
    while not re.search(line, running.log.read_text() if running.log.exists() else ""):
        assert running.process.is_alive(), f"it ended before it said {line}: {running.log.read_text()}"
        assert time.monotonic() < deadline, "it hangs"
        time.sleep(0.01)


def require_same(folder: Path, undisturbed: Path) -> None:
    assert losses(folder) == losses(undisturbed)
    for name in ("lens", "lens-ema", "tail_lens", "greedy_lens"):
        files = sorted(path.relative_to(undisturbed) for path in (undisturbed / name).rglob("*.safetensors"))
        assert files
        for file in files:
            expected, found = load_file(undisturbed / file), load_file(folder / file)
            assert all(torch.equal(found[key], tensor) for key, tensor in expected.items()), file
    assert not list((folder / "tail_lens").glob("checkpoint-*")) and not (folder / "tail_lens/README.md").exists()


def test_ended_from_outside_and_started_again_it_ends_the_same(tmp_path: Path, rows: Path, undisturbed: Path) -> None:
    """In the warm start, behind it, and in the training of the baseline, which has a warm start, too; by SIGKILL and
    by SIGTERM in turn. Any signal at any change of any file: `tests/hostile/kills.py`."""
    draw, rows, numbers = random.Random(9), copy_of(rows, tmp_path), cycle([signal.SIGTERM, signal.SIGKILL])
    stages = [("warm start", 2, 3), ("training", 1, 4), ("context tail, warm start", 3, 4), ("context tail", 1, 4)]
    for attempt, ((title, first, last), number) in enumerate(zip(stages, numbers, strict=False)):
        running = start(words_for(rows, tmp_path / "run"), tmp_path / f"log-{attempt}")
        wait_for(running, rf"(?m)^{title} {draw.randint(first, last)}/")
        os.kill(running.process.pid, number)
        code, said = running.end()
        assert code == (-number if number == signal.SIGKILL else CODE), said
        if number == signal.SIGTERM:
            assert "Traceback" not in said and "ended by SIGTERM: Nothing is lost up to checkpoint-" in said
        assert checkpoints(tmp_path / "run")
    assert checkpoints(tmp_path / "run/tail_lens"), "the baseline goes on, too"
    code, said = run(words_for(rows, tmp_path / "run"), tmp_path / "log")
    assert code == 0, said
    assert not re.search(r"(?m)^(context tail, )?warm start 1/", said), "it began anew"
    require_same(tmp_path / "run", undisturbed)
