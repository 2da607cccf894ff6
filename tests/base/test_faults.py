"""What a training runs on fails: it goes on, or stops with a message, and nothing that was saved is lost."""

from __future__ import annotations

import multiprocessing
import os
import re
import resource
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from extracting import extract_to, random_texts, run, saved_model, shards
from lens_runs import trainer_of
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import TrainerCallback

from consistency_lens.base.robust.trackers import Tracker, tolerating
from consistency_lens.base.saving.checkpoint import checkpoints
from consistency_lens.errors import BadInput, is_full_disk
from consistency_lens.frozen import FrozenLM

SAVING = {"save_strategy": "steps", "save_steps": 1}


def names(run: Path) -> list[str]:
    return [folder.name for folder in checkpoints(run)]


# A clock that is set back.


class SetBack(TrainerCallback):
    """What is there already was written by a clock that was later still."""

    def __init__(self, run: Path, hours: float) -> None:
        self.run, self.hours = run, hours

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        ahead = time.time() + 3600 * self.hours
        for i, folder in enumerate(checkpoints(self.run)):
            os.utime(folder, (ahead + 60 * i, ahead + 60 * i))


@pytest.mark.parametrize("hours", [1, -1])
def test_rotation_keeps_the_newest_whatever_the_clock_says(tmp_path: Path, hours: float) -> None:
    trainer = trainer_of(tmp_path, **SAVING, save_total_limit=2)
    trainer.add_callback(SetBack(tmp_path, hours))
    trainer.train()
    assert names(tmp_path) == ["checkpoint-3", "checkpoint-4"]


def test_dates_in_disorder_are_put_in_order(tmp_path: Path) -> None:
    trainer_of(tmp_path, **SAVING, max_steps=3).train()
    now = time.time()
    for step, hours in ((1, 0.5), (2, 3), (3, 1)):
        os.utime(tmp_path / f"checkpoint-{step}", (now - 3600 * hours,) * 2)
    trainer = trainer_of(tmp_path, **SAVING, save_total_limit=2, max_steps=4)
    trainer.train(resume_from_checkpoint=True)
    assert names(tmp_path) == ["checkpoint-3", "checkpoint-4"]


# A data worker that dies.


class Killer(TrainerCallback):
    """Kills the worker that brings the batches, the hard way."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 2:
            for worker in multiprocessing.active_children():
                assert worker.pid is not None
                os.kill(worker.pid, signal.SIGKILL)


def train_until_a_data_worker_dies(folder: Path, threads: int) -> None:
    torch.set_num_threads(threads)
    trainer = trainer_of(folder, **SAVING, dataloader_num_workers=1)
    trainer.add_callback(Killer())
    try:
        trainer.train()
    except BadInput as error:
        (folder / "message").write_text(str(error))


def test_a_data_worker_that_dies_ends_the_training_with_a_message(tmp_path: Path) -> None:
    """The training has a process of its own: torch raises wherever the main thread is when the worker's death arrives,
    and that may be inside the test runner."""
    apart, arguments = multiprocessing.get_context("spawn"), (tmp_path, torch.get_num_threads())
    child = apart.Process(target=train_until_a_data_worker_dies, args=arguments)
    child.start()
    child.join(300)
    assert child.exitcode == 0
    assert re.search(
        r"dataloader_num_workers=1: DataLoader worker.*checkpoint-\d goes on", (tmp_path / "message").read_text()
    )
    again = trainer_of(tmp_path, **SAVING)
    again.train(resume_from_checkpoint=True)
    undisturbed = trainer_of(tmp_path / "undisturbed")
    undisturbed.train()
    losses, losses_too = ([e["loss"] for e in t.state.log_history if "loss" in e] for t in (again, undisturbed))
    assert losses == losses_too


# A tracker that cannot be reached.


@pytest.mark.parametrize("tracker", ["wandb", "trackio", "tensorboard"])
def test_a_tracker_that_cannot_be_reached_is_said_once_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tracker: str
) -> None:
    """Nobody is logged in, or the folder is a file. trackio keeps such things to itself."""
    pytest.importorskip("tensorboard" if tracker == "tensorboard" else tracker)
    (tmp_path / "file").touch()
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "file"))
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    if tracker == "trackio":
        import trackio.sqlite_storage as storage

        monkeypatch.setattr(storage, "TRACKIO_DIR", tmp_path / "file" / "below")
    trainer = trainer_of(tmp_path / "run", report_to=[tracker], eval_strategy="steps", eval_steps=2)
    trainer.train()
    assert trainer.state.global_step == 4 and len([e for e in trainer.state.log_history if "loss" in e]) == 4
    said = [record.getMessage() for record in caplog.records if "the training goes on" in record.getMessage()]
    if tracker != "trackio":
        assert len(said) == 1 and said[0].startswith(f"{tracker} gets no more of this run")
    assert pq.read_table(tmp_path / "run/samples.parquet").num_rows == 16


class Failing(TrainerCallback):
    """A tracker that breaks down in the middle, and would again."""

    told: int = 0

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        self.told += 1
        if self.told > 2:
            raise TimeoutError("no answer")


def test_a_tracker_that_breaks_down_is_told_no_more(tmp_path: Path) -> None:
    tracker, silent = Failing(), set[str]()
    trainer = trainer_of(tmp_path)
    trainer.add_callback(Tracker("tensorboard", tracker, silent))
    trainer.train()
    assert trainer.state.global_step == 4 and tracker.told == 3 and silent == {"tensorboard"}


def test_what_is_wrong_with_us_is_not_tolerated() -> None:
    with pytest.raises(AttributeError), tolerating("tensorboard", set()):
        raise AttributeError


# The disk.


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows") / "rows"
    texts = random_texts(40, shortest=8, longest=16)
    extract_to(folder, texts, FrozenLM.from_pretrained(saved_model()), continuation_length=4)
    return folder


def words_for(rows: Path, run_folder: Path, *more: str) -> list[str]:
    named = ["--model_name_or_path", str(saved_model()), "--activations", str(rows), "--output_dir", str(run_folder)]
    small = ["--use_cpu", "--code_length", "3", "--prompt", "w1 <A> w2", "--warm_steps", "2", "--max_steps", "4"]
    small += ["--per_device_train_batch_size", "6", "--save_steps", "2", "--logging_steps", "1", "--rollouts", "2"]
    small += ["--eval_strategy", "no", "--tail_baseline", "false", "--kl_horizon", "0"]
    return ["train", *named, *small, *more]


def limit_file_size(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.slow
def test_a_disk_that_fills_up_while_a_checkpoint_is_written(tmp_path: Path, rows: Path) -> None:
    folder = tmp_path / "run"
    code, said = run(words_for(rows, folder), tmp_path / "log")
    assert code == 0, said
    expected = load_file(folder / "lens/decoder/model.safetensors")
    for gone in ("lens", "checkpoint-4"):
        shutil.rmtree(folder / gone)
    first = {path: path.read_bytes() for path in (folder / "checkpoint-2").rglob("*") if path.is_file()}
    size = (folder / "checkpoint-2/optimizer.pt").stat().st_size - 4096
    resume = words_for(rows, folder, "--resume_from_checkpoint", "true")
    code, said = run(resume, tmp_path / "log", limit_file_size, size)
    assert code == 2 and "Traceback" not in said, said
    assert "no room left to write checkpoint-4. Free some space" in said
    assert f"--resume_from_checkpoint {folder / 'checkpoint-2'} goes on from there" in said
    assert names(folder) == ["checkpoint-2"] and not (folder / "checkpoint-4").exists()
    assert all(path.read_bytes() == content for path, content in first.items())
    code, said = run(resume, tmp_path / "log")
    assert code == 0, said
    found = load_file(folder / "lens/decoder/model.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(28, "No space left on device"), True),
        (OSError(2, "No such file"), False),
        (SafetensorError("Error while serializing: I/O error: File too large (os error 27)"), True),
        (SafetensorError("Error while serializing: I/O error: Permission denied (os error 13)"), False),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"), True),
        (RuntimeError("basic_ios::clear: iostream error"), True),
        (RuntimeError("CUDA error"), False),
    ],
)
def test_what_a_full_disk_is_told_by(error: Exception, full: bool) -> None:
    assert is_full_disk(error) is full


def test_a_damaged_shard_is_refused_before_the_training(tmp_path: Path, rows: Path) -> None:
    copy = tmp_path / "rows"
    shutil.copytree(rows, copy)
    shard = shards(copy)[0]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    code, said = run(words_for(copy, tmp_path / "run"), tmp_path / "log")
    assert code == 2 and "Traceback" not in said and shard.name in said, said
    assert not (tmp_path / "run").exists()
