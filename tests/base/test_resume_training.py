"""Killed at any step and resumed, a run ends in the very numbers and weights of an undisturbed one."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from lens_runs import arguments, rows_folder, tiny_lens, tiny_rows, trainer_of
from safetensors.torch import load_file
from tiny import tiny_lm
from transformers import TrainerCallback

from consistency_lens.activations import Activations
from consistency_lens.base.robust.termination import CODE
from consistency_lens.base.saving.checkpoint import checkpoints, is_complete
from consistency_lens.errors import BadInput
from consistency_lens.text.trainer import ConsistencyLensTrainer

STEPS, WARM, SAVE = 11, 5, 3
CLOCKS = ("runtime", "per_second", "total_flos")
RUN: dict[str, Any] = {
    "max_steps": STEPS,
    "warm_steps": WARM,
    "save_strategy": "steps",
    "save_steps": SAVE,
    "eval_strategy": "steps",
    "eval_steps": 5,
    "sample_steps": 4,
    "ema_decay": 0.9,
    "kl_weight": "linear(1, 0.2, 10)",
    "lr_scheduler_type": "cosine",
    "seed": 7,
}
KINDS: dict[str, dict[str, Any]] = {
    "policy": {"estimator": "policy"},
    "parallel-lora": {"estimator": "parallel", "trainable": "lora", "gradient_accumulation_steps": 2},
    "sequential": {"estimator": "sequential", "delta": "grad"},
    # More than an epoch, with texts that are wanted to the end.
    "quote-epochs": {"quote": True, "warm_sure": 0.5, "per_device_train_batch_size": 64},
    "policy-lora": {"trainable": "lora", "warm_start": "context"},
}


class Dying(ConsistencyLensTrainer):
    """The process kills itself, the hard way, half-way through the writing of one checkpoint."""

    writing: int | None = None

    def _save_rng_state(self, output_dir: str) -> None:
        if self.state.global_step == self.writing:
            os.kill(os.getpid(), signal.SIGKILL)
        super()._save_rng_state(output_dir)


class AtTheEnd(TrainerCallback):
    """The process gets a signal at the end of a step."""

    def __init__(self, step: int, number: int = signal.SIGKILL) -> None:
        self.step, self.number = step, number

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            os.kill(os.getpid(), self.number)


def _train(log: Path, rows: Path, run: Path, settings: dict[str, Any], resume: bool, moment: dict[str, int]) -> None:
    with open(log, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    torch.set_num_threads(1)
    settings = dict(settings)
    frozen = tiny_lm()
    lens = tiny_lens(frozen, trainable=settings.pop("trainable", "full"))
    trainer = Dying(lens, arguments(run, **(RUN | settings)), Activations.load(rows), frozen=frozen)
    trainer.writing = moment.get("writing")
    if "end_of" in moment:
        trainer.add_callback(AtTheEnd(moment["end_of"]))
    if "asked_at" in moment:
        trainer.add_callback(AtTheEnd(moment["asked_at"], signal.SIGTERM))
    trainer.train(resume_from_checkpoint=resume or None)
    trainer.save_model(str(run / "end"))
    trainer.state.save_to_json(str(run / "end" / "trainer_state.json"))


def train(folder: Path, kind: str, resume: bool = False, **moment: int) -> int:
    """Exit code of a run in a process of its own."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["consistency_lens.text.trainer", "consistency_lens.cli", "peft", "rich.table"])
    log = folder.with_suffix(".log")
    process = server.Process(target=_train, args=(log, rows_folder("llama"), folder, KINDS[kind], resume, moment))
    process.start()
    process.join(300)
    assert process.exitcode is not None, "it hangs"
    assert process.exitcode in (0, -signal.SIGKILL, CODE), log.read_text()
    return process.exitcode


def ended(folder: Path) -> tuple[list[dict[str, float]], dict[str, torch.Tensor], list[dict[str, Any]]]:
    """All that was logged but the clocks, all tensors, and the table of samples."""
    history = json.loads((folder / "end" / "trainer_state.json").read_text())["log_history"]
    logged = [{k: v for k, v in entry.items() if not k.endswith(CLOCKS)} for entry in history]
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted((folder / "end").rglob("*.safetensors")):
        tensors |= {f"{file.relative_to(folder)}:{name}": tensor for name, tensor in load_file(file).items()}
    return logged, tensors, pq.read_table(folder / "samples.parquet").to_pylist()


def require_same(one: Path, other: Path) -> None:
    (logged, tensors, samples), (logged_too, tensors_too, samples_too) = ended(one), ended(other)
    assert [entry["step"] for entry in logged] == [entry["step"] for entry in logged_too]
    for entry, entry_too in zip(logged, logged_too, strict=True):
        assert entry == entry_too, f"step {entry['step']}"
    assert tensors.keys() == tensors_too.keys() and any("ema" in name for name in tensors)
    for name, tensor in tensors.items():
        assert torch.equal(tensor, tensors_too[name]), name
    assert samples == samples_too and {row["step"] for row in samples} == {4, 8}


def kill_and_resume(tmp_path: Path, kind: str, moments: list[dict[str, int]]) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    assert train(undisturbed, kind) == 0
    for attempt, moment in enumerate(moments):
        assert train(killed, kind, resume=attempt > 0, **moment) == -signal.SIGKILL, moment
    assert train(killed, kind, resume=True) == 0
    logged, _, _ = ended(undisturbed)
    steps = [entry for entry in logged if "loss" in entry]
    writes = "quote" not in KINDS[kind]  # what quotes has no decoder to teach
    assert len(steps) == STEPS and ("loss/start" in steps[0]) == writes and "loss/start" not in steps[WARM]
    require_same(undisturbed, killed)


def drawn_moments(seed: int) -> list[dict[str, int]]:
    """In the warm start, behind it, while a checkpoint is written, and behind that."""
    draw = random.Random(seed)
    # A step ends before its checkpoint is written.
    early, late, last = draw.randint(SAVE + 1, WARM), draw.randint(WARM + 1, 3 * SAVE - 1), draw.randint(3 * SAVE, 10)
    return [{"end_of": early}, {"end_of": late}, {"writing": 3 * SAVE}, {"end_of": last}]


def test_asked_to_end_it_saves_where_it_is_and_goes_on_from_there(tmp_path: Path) -> None:
    """The request comes between two saves, once in the warm start and once behind it; it is heard a step later."""
    undisturbed, asked = tmp_path / "undisturbed", tmp_path / "asked"
    assert train(undisturbed, "policy") == 0
    for attempt, step in enumerate((3, 6)):
        assert train(asked, "policy", resume=attempt > 0, asked_at=step) == CODE
        assert checkpoints(asked)[-1].name == f"checkpoint-{step + 1}"
    assert train(asked, "policy", resume=True) == 0
    require_same(undisturbed, asked)


def test_a_finished_training_ends_as_it_did(tmp_path: Path) -> None:
    once, twice = tmp_path / "once", tmp_path / "twice"
    assert train(once, "policy") == 0
    shutil.copytree(once, twice)
    assert train(twice, "policy", resume=True) == 0
    logged, _, _ = ended(twice)
    assert max(entry["step"] for entry in logged) == STEPS and not any("train_loss" in entry for entry in logged)
    require_same(once, twice)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 1])
def test_kills_leave_no_trace_whatever_is_trained(tmp_path: Path, kind: str, seed: int) -> None:
    kill_and_resume(tmp_path, kind, drawn_moments(seed))


# Checkpoints that were cut off.


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    trainer_of(folder, save_strategy="steps", save_steps=1, max_steps=3, ema_decay=0.5).train()
    return folder


FILES = ["trainer_state.json", "optimizer.pt", "rng_state.pth", "model.safetensors", "decoder/model.safetensors"]


@pytest.mark.parametrize("file", [*FILES, "ema.safetensors"])
def test_a_checkpoint_cut_off_is_refused_and_the_newest_whole_one_named(run: Path, file: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    newest = folder / "checkpoint-3"
    assert is_complete(newest) and [path.name for path in checkpoints(folder)][-1] == newest.name
    content = (newest / file).read_bytes()
    (newest / file).write_bytes(content[: len(content) // 2])
    assert not is_complete(newest)
    with pytest.raises(BadInput, match=r"resume_from_checkpoint='checkpoint-3'.*cut off.*checkpoint-2"):
        trainer_of(folder, max_steps=3, ema_decay=0.5).train(resume_from_checkpoint=str(newest))
    trainer = trainer_of(folder, max_steps=3, ema_decay=0.5)
    trainer.train(resume_from_checkpoint=True)
    assert [entry["step"] for entry in trainer.state.log_history if "loss" in entry] == [1, 2, 3]


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path, run: Path) -> None:
    with pytest.raises(BadInput, match="there is no such folder"):
        trainer_of(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-9"))
    with pytest.raises(BadInput, match="no whole checkpoint"):
        trainer_of(tmp_path).train(resume_from_checkpoint=True)
    (tmp_path / "checkpoint-1").mkdir()
    with pytest.raises(BadInput, match="Start again"):
        trainer_of(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


def test_averages_that_were_never_begun_cannot_be_resumed(tmp_path: Path) -> None:
    trainer_of(tmp_path, save_strategy="steps", save_steps=2, max_steps=2).train()
    with pytest.raises(BadInput, match=r"ema_decay=0\.9.*checkpoint-2 holds no averages"):
        trainer_of(tmp_path, ema_decay=0.9).train(resume_from_checkpoint=True)


@pytest.mark.parametrize("logging_steps", [1, 100])
def test_the_count_of_skipped_steps_survives(tmp_path: Path, logging_steps: int) -> None:
    """The limit is one for the run, however often it is resumed and however rarely it logs."""
    from test_lens_trainer import Spoiled

    frozen = tiny_lm()
    given = {"save_strategy": "steps", "save_steps": 2, "max_skipped_steps": 1, "logging_steps": logging_steps}
    given["logging_first_step"] = False
    trainer = Spoiled(tiny_lens(frozen), arguments(tmp_path, **given), tiny_rows(), frozen=frozen)
    trainer.bad_steps = (1, 2)
    with pytest.raises(BadInput, match="max_skipped_steps"):
        trainer.train()
    again = Spoiled(tiny_lens(frozen), arguments(tmp_path, **given), tiny_rows(), frozen=frozen)
    with pytest.raises(BadInput, match="2 steps"):
        again.train(resume_from_checkpoint=True)  # its bad step is the third, as before
