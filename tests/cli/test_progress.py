"""A training says how far each of its stages is."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from lens_runs import trainer_of

from consistency_lens.cli.progress import Progress, Stage, speed


def lines(said: str) -> list[str]:
    return re.findall(r"^(.+? \d+/\d+)  .*\S (?:left|tokens/s)$", said, re.MULTILINE)


def test_the_warm_start_and_the_training_have_totals_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = trainer_of(tmp_path, warm_steps=2, max_steps=5, save_strategy="steps", save_steps=1)
    trainer.add_callback(Progress())
    trainer.train()
    functional = ["training 1/3", "training 2/3", "training 3/3"]
    assert lines(capsys.readouterr().err) == ["warm start 1/2", "warm start 2/2", *functional]
    again = trainer_of(tmp_path, warm_steps=2, max_steps=5)
    again.add_callback(Progress())
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert lines(capsys.readouterr().err) == functional[1:]


@pytest.mark.parametrize(
    ("warm", "said"),
    [(0, ["context tail 1/2", "context tail 2/2"]), (9, [f"context tail, warm start {i}/2" for i in (1, 2)])],
)
def test_a_training_of_one_stage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], warm: int, said: list[str]
) -> None:
    trainer = trainer_of(tmp_path, warm_steps=warm, max_steps=2)
    trainer.add_callback(Progress("context tail"))
    trainer.train()
    assert lines(capsys.readouterr().err) == said


def test_what_is_left_is_of_the_stage_and_of_the_steps_that_were_seen() -> None:
    stage = Stage("training", 100, 200, since=(150, time.monotonic() - 10))
    assert stage.seconds_left(160) == pytest.approx(40, rel=0.1) and stage.seconds_left(200) == 0


def test_what_the_first_step_waits_for_is_no_speed() -> None:
    stage = Stage("training", 0, 200)
    assert stage.seconds_left(0) is None
    stage.see(1)
    assert stage.seconds_left(1) is None
    stage.see(2)
    left = stage.seconds_left(2)
    assert left is not None and 0 < left < 200


@pytest.mark.parametrize(
    ("rate", "shown"), [(0.38, "0.38"), (1.04, "1"), (9.96, "10"), (10.4, "10"), (1234.5, "1,234")]
)
def test_speeds_of_slow_steps_are_no_zeros(rate: float, shown: str) -> None:
    assert speed(rate) == shown
