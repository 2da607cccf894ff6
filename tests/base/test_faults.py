"""What a training runs on fails: it goes on, or stops with a message, and nothing that was saved is lost."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from lens_runs import trainer_of
from transformers import TrainerCallback

from consistency_lens.base.checkpoint import checkpoints

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
