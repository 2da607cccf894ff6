"""Every benchmark of speed and memory runs to its table on the smallest model, and what it says adds up."""

from __future__ import annotations

import importlib
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

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
        asked = vars(load(name).new_parser().parse_args(words))
        assert record["machine"]["torch"] == torch.__version__
        assert {"size", "length"} <= set(record["settings"]) and record["settings"].items() <= asked.items()
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
    assert set(result["of peak"]) == {"score", "read"}
    for part, speed in result["of peak"].items():  # the same operations, in the time that each way takes
        ours, bare = (speed[whose] * parts[part][f"{whose} ms"] for whose in ("ours", "bare"))
        assert ours == pytest.approx(bare)
    plan = result["plan"]
    assert set(plan["parts"]) == set(parts) and all(ms > 0 for ms in plan["parts"].values())
    assert plan["parts"]["score"] == pytest.approx(parts["score"]["bare ms"])  # whose speed it is told
    assert plan["step ms"] == pytest.approx(sum(plan["parts"].values()))
    assert plan["over measured"] == pytest.approx(plan["step ms"] / result["step ms"])
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
    times = [row | {"axis": axis} for axis in growth.AXES for row in rows]
    growth.draw(times, fits, tmp_path / "growth.png", growth.AXES)
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
    assert packed["trained, millions"] == plain["trained, millions"]


@pytest.mark.slow
def test_the_others_run_to_their_tables(load: Load, found: Callable[..., Any]) -> None:
    ours, _, plain = found("ancestor", "--size", "pilot", "--rows", "4", "--repeats", "1", *SMALL)
    assert ours["of the memory"] == pytest.approx(ours["MB"] / plain["MB"], rel=0.2)  # of whole, small numbers
    assert ours["times faster"] == pytest.approx(plain["ms"] / ours["ms"], rel=0.2)
    words = ["--lengths", "2", "4", "--batches", "2", "4", "--contexts", "8", "16", "--repeats", "1"]
    assert [row["axis"] for row in found("growth", *words)[:3]] == ["length", "rows", "context"]
    (row,) = found("step", "--rows", "2", "--repeats", "1", "--memory", "--estimators", "policy", *SMALL)
    assert set(row["memory"]) >= {"rollout", "score", "optimizer", "step"}
    weights = 4e-6 * sum(weight.numel() for weight in load("sizes").random_lm("pilot", 24).model.parameters())
    assert row["memory"]["always"] > 6 * weights, "the model, two clones of it, and two moments of each of these"


@pytest.mark.distributed
def test_two_processes_train_together(found: Callable[..., Any]) -> None:
    words = ["--rows", "4", "--length", "2", "--context", "8", "--horizon", "1", "--steps", "2", "--rounds", "1"]
    first, middle = found("parallel", *words)
    assert first["efficiency"] == pytest.approx(first["alone s"] / first["together s"])
    assert middle == first | {"round": "median"}, "of one round"


def verdict(name: str, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Of one of the checks for a GPU."""
    return runpy.run_path(str(ROOT / f"benchmarks/gpu/{name}.py"))["verdict"](results)


def reached(score: float, read: float) -> dict[str, Any]:
    return {"of peak": {"score": {"bare": 0.9, "ours": score}, "read": {"bare": 0.9, "ours": read}}}


def ratio(whole: float) -> dict[str, Any]:
    return {"all": {"ratio by round": whole}, "five": {"ratio by round": 9.0}, "rollout share": 0.5}


def peak(way: str, megabytes: int, planned: float) -> dict[str, Any]:
    return {"way": way, "peak MB": megabytes, "plan / measured": planned}


def against_plain(faster: float, memory: float) -> list[dict[str, Any]]:
    return [{"way": way, "times faster": f, "of the memory": m} for way, f, m in
            (("ours, full", 1.0, 1.0), ("ours, lora", faster, memory))]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "results", "met"),
    [
        ("step", [ratio(1.15)], True),
        ("step", [ratio(1.16)], False),
        ("flops", [reached(0.4, 0.7)], True),
        ("flops", [reached(0.7, 0.39)], False),
        ("peak", [peak("lora", 40_000, 1), peak("lora, 4-bit", 20_000, 2)], True),
        ("peak", [peak("lora", 30_000, 1), peak("lora, 4-bit", 20_001, 1)], False),
        ("ancestor", against_plain(5.0, 0.35), True),
        ("ancestor", against_plain(4.9, 0.3), False),
        ("ancestor", against_plain(9.0, 0.36), False),
    ],
)
def test_a_target_is_met_or_it_is_not(
    monkeypatch: pytest.MonkeyPatch, name: str, results: list[dict[str, Any]], met: bool
) -> None:
    for folder in ("benchmarks/gpu", "benchmarks"):
        monkeypatch.syspath_prepend(str(ROOT / folder))
    assert verdict(name, results)["met"] is met


@pytest.mark.slow
@pytest.mark.parametrize("name", ["step", "flops", "peak", "ancestor"])
def test_checks_for_a_gpu_say_whether_they_are_met(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the smallest model, without a GPU: the figures mean nothing there, but the command and its answer do."""
    for folder in ("benchmarks/gpu", "benchmarks"):
        monkeypatch.syspath_prepend(str(ROOT / folder))
    more = ["--dtype", "float32", "--rows", "2", "--length", "2", "--context", "8", "--horizon", "1"]
    more += ["--ways", "lora"] if name == "peak" else ["--repeats", "1"]
    path = tmp_path / "found.json"
    command = [sys.executable, str(ROOT / f"benchmarks/gpu/{name}.py"), "--sizes", "pilot", "--device", "cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command += ["--json", str(path), "--more", *more]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path, env=environment)
    record = json.loads(path.read_text())
    assert done.stdout.rstrip().endswith(json.dumps(record, indent=1)[-200:])
    assert (record["check"], record["device"]) == (name, "cpu")
    (size,) = record["sizes"].values()
    assert size == size | verdict(name, size["results"]) and size["settings"]["size"] == "pilot"


@pytest.mark.slow
def test_a_busy_machine_is_made_and_each_way_is_timed_on_both(found: Callable[..., Any]) -> None:
    small = ["--rows", "2", "--length", "3", "--context", "12", "--steps", "2", "--rounds", "1"]
    results = found("busy", *small)
    cores = len(os.sched_getaffinity(0))
    ways = ["all cores", "one thread", "chosen"]
    assert [(row["others"], row["way"]) for row in results] == [(n, way) for n in (0, cores) for way in ways]
    for others in (results[:3], results[3:]):
        assert min(row["times the best"] for row in others) == 1
        assert all(0 < row["least"] <= row["ms a step"] <= row["most"] for row in others)
