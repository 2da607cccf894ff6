"""One process that accelerate has started uses all cores; whoever says how many is heard."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from consistency_lens.cli.threads import cores, is_free, threads_for
from consistency_lens.errors import BadInput

LAUNCHED = {"ACCELERATE_MIXED_PRECISION": "no", "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize(
    ("asked", "environment", "on_cpu", "processes", "expected"),
    [
        (None, LAUNCHED, True, 1, 8),
        (None, LAUNCHED | {"OMP_NUM_THREADS": "3"}, True, 1, None),
        (None, {"OMP_NUM_THREADS": "1"}, True, 1, None),  # started by hand, and so meant
        (None, {}, True, 1, None),  # torch uses all cores by itself
        (None, LAUNCHED, True, 2, None),
        (None, LAUNCHED, False, 1, None),
        (2, LAUNCHED, True, 2, 2),
        (1, LAUNCHED, True, 1, 1),  # OMP_NUM_THREADS=1 could not say so there: accelerate itself sets it
        (1, {}, False, 1, 1),
    ],
)
def test_how_many(
    asked: int | None, environment: dict[str, str], on_cpu: bool, processes: int, expected: int | None
) -> None:
    assert threads_for(asked, environment, 8, on_cpu, processes) == expected


def test_cores_are_counted_where_a_system_does_not_say_which_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cores() == len(os.sched_getaffinity(0))
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.delattr(os, "sched_getaffinity")
    assert cores() == os.cpu_count()


def test_none_at_all_is_refused() -> None:
    with pytest.raises(BadInput, match="cpu_threads=0"):
        threads_for(0, {}, 8, True, 1)


def test_the_launcher_is_recognised(tmp_path: Path) -> None:
    """By what it really leaves in the environment."""
    script = tmp_path / "script.py"
    script.write_text("import json, os\nprint()\nprint(json.dumps(dict(os.environ)))\n")
    command = [sys.executable, "-m", "accelerate.commands.launch", str(script)]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert threads_for(None, json.loads(done.stdout.splitlines()[-1]), 8, True, 1) == 8


@pytest.mark.parametrize(
    ("asked", "environment", "on_cpu", "processes", "threads", "free"),
    [
        (None, LAUNCHED, True, 1, 8, True),
        (None, {}, True, 1, 8, True),
        (None, {}, True, 1, 1, False),  # torch has one: there is nothing to choose
        (2, LAUNCHED, True, 1, 2, False),
        (None, {"OMP_NUM_THREADS": "8"}, True, 1, 8, False),
        (None, LAUNCHED, True, 2, 4, False),
        (None, {}, False, 1, 8, False),
    ],
)
def test_a_training_chooses_where_nobody_said_how_many(
    asked: int | None, environment: dict[str, str], on_cpu: bool, processes: int, threads: int, free: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert is_free(asked, environment, on_cpu, processes) is free
