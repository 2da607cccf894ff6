"""`--profile_steps`: a trace of some steps of any lens's training, and what is refused."""

from __future__ import annotations

import json
import logging
from dataclasses import fields
from pathlib import Path

import pytest
from toy_runs import toy_trainer

from consistency_lens.auto import FAMILIES
from consistency_lens.base.trainer import LensTrainer
from consistency_lens.base.watching.profiling import parse_steps
from consistency_lens.errors import BadInput


def test_the_trace_holds_the_steps_that_are_named(tmp_path: Path) -> None:
    toy_trainer(tmp_path, eval_strategy="no", max_steps=4, profile_steps="2:4").train()
    (path,) = (tmp_path / "profile").iterdir()
    assert path.name.startswith("process-0.") and path.name.endswith(".pt.trace.json")
    events = json.loads(path.read_text())["traceEvents"]
    names = {event["name"] for event in events if "name" in event}
    steps = {event["name"] for event in events if str(event.get("name", "")).startswith("ProfilerStep#")}
    assert steps == {"ProfilerStep#2", "ProfilerStep#3"}
    assert any(name.startswith("Optimizer.step#") for name in names) and "aten::addmm" in names | {"aten::mm"}
    assert sum(str(event.get("name", "")).startswith("Optimizer.step#") for event in events) == 2
    assert any(event.get("args", {}).get("Input Dims") for event in events)


def test_every_family_has_it() -> None:
    for family in FAMILIES.values():
        assert issubclass(family.load("trainer"), LensTrainer)
        assert "profile_steps" in {f.name for f in fields(family.load("arguments"))}


def test_a_training_that_ends_early_leaves_what_there_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    toy_trainer(tmp_path / "short", eval_strategy="no", max_steps=2, profile_steps="2:9").train()
    assert len(list((tmp_path / "short/profile").iterdir())) == 1
    with caplog.at_level(logging.WARNING):
        toy_trainer(tmp_path / "none", eval_strategy="no", max_steps=2, profile_steps="5:9").train()
    assert not (tmp_path / "none/profile").exists() and "ends at step 2" in caplog.text


@pytest.mark.parametrize("given", ["", "3", "0:2", "4:4", "5:2", "a:b", "1:2:3", "-1:2"])
def test_steps_that_are_none_are_refused_at_once(given: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        toy_trainer(tmp_path, profile_steps=given)
    assert caught.value.field == "profile_steps"
    assert parse_steps(" 10 : 13 ") == (10, 13)
