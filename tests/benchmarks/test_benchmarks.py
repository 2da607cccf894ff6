"""Every benchmark of speed and memory runs to its table on the smallest model, and what it says adds up."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
Load = Callable[[str], ModuleType]
SMALL = ["--length", "3", "--context", "12", "--horizon", "2", "--threads", "1"]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


@pytest.fixture
def found(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict[str, Any]]]:
    """Run a benchmark as a command, and read what it wrote."""

    def run(name: str, *words: str) -> list[dict[str, Any]]:
        path = tmp_path / f"{name}.json"
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *words, "--json", str(path)])
        load(name).main()
        record = json.loads(path.read_text())
        assert record["machine"]["torch"] and record["settings"]["size"]
        return record["results"]

    return run


def test_a_step_is_the_sum_of_named_parts(found: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--rows", "4", "--lm_weight", "0.02", "--repeats", "1", "--estimators", "policy", *SMALL]
    (result,) = found("step", *words)
    parts = {row["name"]: row for row in result["parts"]}
    assert {"rollout", "score", "read", "prefix", "edited", "clean", "reference", "language"} == set(parts)
    for name, summed in (("all", set(parts)), ("five", {"rollout", "score", "read", "prefix", "edited"})):
        for whose in ("bare ms", "ours ms"):
            assert result[name][whose] == pytest.approx(sum(parts[part][whose] for part in summed))
        assert result[name]["ratio"] == pytest.approx(result["step ms"] / result[name]["bare ms"])
    assert result["rollout share"] == pytest.approx(parts["rollout"]["ours ms"] / result["step ms"])
    assert set(result["of peak"]) == {"score", "read"} and result["optimizer ms"] > 0
    said = capsys.readouterr().out
    assert "the optimizer, besides" in said and "Of the peak" in said


def test_growth_is_a_fitted_exponent(load: Load, tmp_path: Path) -> None:
    growth = load("growth")
    rows = [{"axis": "rows", "value": n, "ms": 3.0 * n**0.5} for n in (2, 4, 8, 16)]
    assert growth.fit(rows) == pytest.approx(0.5)
    assert [growth.verdict(e) for e in (0.5, 0.95, 1.05, 1.3)] == [
        "sub-linear", "linear", "linear", "worse than linear",
    ]  # fmt: skip
    fits = [{"axis": axis, "exponent": 0.5, "upper half": 0.6} for axis in growth.AXES]
    growth.draw([row | {"axis": axis} for axis in growth.AXES for row in rows], fits, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_the_plain_way_has_the_objective_of_ours(load: Load) -> None:
    """Untrained, both ways hear the same noise and write the same words: clones, caches and cuts change no value."""
    ancestor = load("ancestor")
    options = ancestor.new_parser().parse_args(["--size", "pilot", "--rows", "3", *SMALL])
    frozen = ancestor.random_lm("pilot", 64)
    ours, plain = (ancestor.Step(options, way, frozen) for way in ("ours, full", ancestor.PLAIN))
    said = ours.trainer.compute_loss(ours.trainer.lens, ours.batch)
    assert said.item() == pytest.approx(plain.loss().item(), rel=1e-4)


@pytest.mark.slow
def test_memory_is_what_the_plan_says(found: Callable[..., Any]) -> None:
    """A model of 134 million weights: measured peak against arithmetic, item by item added up."""
    words = ["--ways", "lora", "three copies, cut", "--rows", "8", "--context", "64", "--threads", "1"]
    for row in found("memory", *words):
        assert row["plan / measured"] == pytest.approx(1, abs=0.15), row


@pytest.mark.slow
def test_memory_knows_packed_weights(found: Callable[..., Any]) -> None:
    words = ["--size", "pilot", "--ways", "lora", "lora, 4-bit", "--dtype", "bfloat16", "--rows", "2", *SMALL]
    plain, packed = found("memory", *words)
    # That the peak is lower shows on a GPU: for each product CPU kernels unpack weights, and make float32 of bfloat16.
    assert packed["plan MB"] < plain["plan MB"] and packed["weights, millions"] < plain["weights, millions"]
    assert packed["trained, millions"] == plain["trained, millions"] and packed["peak MB"] > 0


@pytest.mark.slow
def test_the_others_run_to_their_tables(found: Callable[..., Any]) -> None:
    ours, _, plain = found("ancestor", "--size", "pilot", "--rows", "4", "--repeats", "1", *SMALL)
    assert plain["times faster"] == plain["of the memory"] == 1 and ours["MB"] > 0
    words = ["--lengths", "2", "4", "--batches", "2", "4", "--contexts", "8", "16", "--repeats", "1"]
    assert [row["axis"] for row in found("growth", *words)[:3]] == ["length", "rows", "context"]
    (row,) = found("step", "--rows", "2", "--repeats", "1", "--memory", "--estimators", "policy", *SMALL)
    assert row["memory"]["always"] > 0 and set(row["memory"]) >= {"rollout", "score", "optimizer", "step"}


@pytest.mark.distributed
def test_two_processes_train_together(found: Callable[..., Any]) -> None:
    words = ["--rows", "4", "--length", "2", "--context", "8", "--horizon", "1", "--steps", "2", "--rounds", "1"]
    first, _ = found("parallel", *words)
    assert first["efficiency"] == pytest.approx(first["alone s"] / first["together s"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["step", "flops", "peak", "ancestor"])
def test_checks_for_a_gpu_say_whether_they_are_met(name: str, tmp_path: Path) -> None:
    """On the smallest model, without a GPU: the figures mean nothing there, but the command and its answer do."""
    more = ["--dtype", "float32", "--rows", "2", "--length", "2", "--context", "8", "--horizon", "1"]
    more += ["--ways", "lora"] if name == "peak" else ["--repeats", "1"]
    path = tmp_path / "found.json"
    command = [sys.executable, str(ROOT / f"benchmarks/gpu/{name}.py"), "--sizes", "pilot", "--device", "cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command += ["--json", str(path), "--more", *more]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path, env=environment)
    record = json.loads(path.read_text())
    assert done.stdout.rstrip().endswith(json.dumps(record, indent=1)[-200:])
    assert record["check"] == name and record["device"] == "cpu" and record["date"]
    assert record["sizes"]["pilot"]["met"] in (True, False) and record["sizes"]["pilot"]["target"]
