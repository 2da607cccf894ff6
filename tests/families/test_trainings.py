"""A training of every family: its signature, what it logs, that the seed decides, and that it goes on exactly."""

from __future__ import annotations

import inspect
import multiprocessing
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from family_rows import ROWS, SAVING, STEPS, Row, know_all, logged, require_equal
from safetensors.torch import load_file
from transformers import Trainer, TrainerCallback

from consistency_lens.base.trainer import LensTrainer
from consistency_lens.base.watching.samples import FILE
from consistency_lens.errors import BadInput


def test_the_names_are_those_of_transformers(row: Row) -> None:
    ours, theirs = (inspect.signature(each).parameters for each in (row.family.load("trainer"), Trainer))
    own = {"frozen", "other"}
    assert {*ours} - own <= {*theirs} and [*ours][:2] == ["model", "args"]
    assert ours["frozen"].kind is inspect.Parameter.KEYWORD_ONLY
    assert all(ours[name].default == theirs[name].default for name in {*ours} - own)


def test_however_the_data_is_given_it_trains_the_same(row: Row, trained: LensTrainer, tmp_path: Path) -> None:
    plain = row.plain()
    given: dict[str, tuple[Any, dict[str, Any]]] = {"path": (str(row.saved(tmp_path / "data")), {})}
    given |= {"splits": (plain, {}), "rows": (plain["train"], {"eval_dataset": plain["validation"]})}
    for name, (data, more) in given.items():
        trainer = row.trainer(tmp_path / name, data, **SAVING, **more)
        trainer.train()
        assert logged(trainer) == logged(trained), name


def test_the_seed_decides(row: Row, trained: LensTrainer, tmp_path: Path) -> None:
    other = row.trainer(tmp_path, seed=5)
    other.train()
    first, second = ([e["loss"] for e in logged(each) if "loss" in e] for each in (trained, other))
    assert len(first) == len(second) == STEPS and not set(first) & set(second)


def test_what_is_no_data_is_refused_by_name(row: Row, tmp_path: Path) -> None:
    for data in (3, print):
        with pytest.raises(BadInput, match=r"^train_dataset="):
            row.trainer(tmp_path, data)
    args = row.trainer(tmp_path).args
    with pytest.raises(BadInput, match=r"^frozen=None"):
        row.family.load("trainer")(row.lens(), args, row.data())


def test_it_logs_its_terms_and_measures_what_it_learns(row: Row, trained: LensTrainer) -> None:
    steps = [entry for entry in logged(trained) if "loss" in entry]
    assert len(steps) == STEPS
    for entry in steps:
        terms = [name.removeprefix("loss/") for name in entry if name.startswith("loss/")]
        total = sum(entry[f"weight/{term}"] * entry[f"loss/{term}"] for term in terms)
        assert terms and entry["loss"] == pytest.approx(total, rel=1e-4, abs=1e-5)
        assert {f"grad_norm/{part}" for part in trained.lens.parts()} <= entry.keys()
    evaluated = [entry for entry in trained.state.log_history if "eval_kl" in entry]
    assert [entry["step"] for entry in evaluated] == [2, 4]
    assert {"eval_kl_recovered", "eval_top1", "eval_ema_kl_recovered"} <= evaluated[-1].keys()
    assert {f"eval_{name}" for name in trained.measure()} <= evaluated[-1].keys()
    rows = pq.read_table(trained.run_folder / FILE).to_pylist()
    assert {each["step"] for each in rows} == {2, 4} and all(each["explanation"] and each["context"] for each in rows)
    card = (trained.run_folder / "checkpoint-4/README.md").read_text().replace("\\", "")  # escaped in Markdown
    assert "kl_recovered" in card and "at step 4 of 4" in card and trained.lens.config.code_in_words in card


class Kill(TrainerCallback):
    """No chance to clean up, behind a step."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == STEPS - 1:
            os.kill(os.getpid(), signal.SIGKILL)


def _killed(name: str, folder: str, data: str) -> None:
    torch.set_num_threads(1)
    know_all()
    ROWS[name].trainer(folder, data, callbacks=[Kill()], **SAVING).train()


def test_a_kill_leaves_no_trace(row: Row, trained: LensTrainer, tmp_path: Path) -> None:
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["family_rows", "consistency_lens.text.trainer"])
    given = (row.name, str(tmp_path / "run"), str(row.saved(tmp_path / "data")))
    process = server.Process(target=_killed, args=given)
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    again = row.trainer(tmp_path / "run", **SAVING)
    again.train(resume_from_checkpoint=True)
    assert logged(again) == logged(trained)
    require_equal(again.lens, trained.lens)
    ours, theirs = (each.run_folder / f"checkpoint-{STEPS}" for each in (again, trained))
    files = [path.relative_to(theirs) for path in theirs.rglob("*.safetensors")]
    assert Path("ema.safetensors") in files
    for file in files:
        first, second = load_file(ours / file), load_file(theirs / file)
        assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first), file
    tables = [pq.read_table(each.run_folder / FILE).to_pylist() for each in (again, trained)]
    assert tables[0] == tables[1]


def test_a_checkpoint_that_was_cut_off_is_refused(row: Row, trained: LensTrainer, tmp_path: Path) -> None:
    folder = shutil.copytree(trained.run_folder, tmp_path / "run")
    newest = folder / f"checkpoint-{STEPS}"
    content = (newest / "model.safetensors").read_bytes()
    (newest / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(BadInput, match=r"resume_from_checkpoint='checkpoint-4'.*cut off.*checkpoint-2"):
        row.trainer(folder, **SAVING).train(resume_from_checkpoint=str(newest))
