"""The benchmark of the transcoder runs to its tables on a few features; its ways compute the same step."""

from __future__ import annotations

import importlib
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SMALL = ["--layers", "3", "--size", "8", "--features", "32", "--tokens", "16", "--k", "2", "--repeats", "1"]


@pytest.fixture
def transcoder(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("transcoder")


def test_it_runs_to_its_tables(transcoder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "found.json"
    words = [*SMALL, "--ks", "1", "16", "--threads", "1", "--tables", "speed", "switch", "growth", "--json", str(path)]
    words += ["--png", str(tmp_path / "growth.png")]
    monkeypatch.setattr(sys, "argv", ["transcoder.py", *words])
    transcoder.main()
    tables: dict[str, list[dict[str, Any]]] = {}
    for row in json.loads(path.read_text())["results"]:
        tables.setdefault(row["table"], []).append(row)
    speed = {row["way"]: row for row in tables["speed"]}
    assert set(speed) == {*transcoder.WAYS, "bare products"}
    for row in speed.values():
        assert row["times faster than the first"] == pytest.approx(speed["dense mask"]["ms"] / row["ms"])
        assert row["over bare products"] == pytest.approx(row["ms"] / speed["bare products"]["ms"])
    assert [row["chosen"] for row in tables["switch"]] == ["sparse", "dense"]
    assert [row["axis"] for row in tables["growth"]] == ["tokens", "pairs of layers", "k", "F"]
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_all_ways_have_the_gradients_of_the_dense_mask(transcoder: Any) -> None:
    """Of the encoders, which all ways hold in the same form."""
    options = transcoder.new_parser().parse_args(SMALL)
    lens, (read, written) = transcoder.lens_of(options), transcoder.rows_of(options)
    grads = {}
    for way in transcoder.WAYS:
        if way in transcoder.LIMITS:
            transcoder.our_step(lens, read, written, transcoder.LIMITS[way])
            grads[way] = torch.stack([source.W_enc.grad for source in lens.layers_in_order])
        else:
            step, encoder = transcoder.their_step(lens, read, written, way)
            step()
            grads[way] = encoder.grad
    expected = grads["dense mask"]
    for way, grad in grads.items():
        assert torch.allclose(grad, expected, rtol=1e-4, atol=1e-6), way


@pytest.mark.parametrize(("tokens", "met"), [(150_000.0, True), (149_999.0, False)])
def test_the_target_for_a_gpu_is_met_or_it_is_not(
    transcoder: Any, monkeypatch: pytest.MonkeyPatch, tokens: float, met: bool
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS / "gpu"))
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    check = runpy.run_path(str(BENCHMARKS / "gpu/transcoder.py"))
    rows = [{"way": "ours, by density", "tokens/s": tokens, "times faster than the first": 2.0}]
    assert check["verdict"](rows)["met"] is met
    (words,) = check["FIXED"].values()
    options = transcoder.new_parser().parse_args([*words, *SMALL, "--features", "64"])
    assert options.ways == ["dense mask", "ours, dense", "ours, sparse", "ours, by density"]
    assert {row["way"] for row in transcoder.measure(options)} == {*options.ways, "bare products"}


@pytest.mark.slow
def test_memory_is_measured_in_a_process_of_its_own(transcoder: Any) -> None:
    options = transcoder.new_parser().parse_args([*SMALL, "--features", "4096", "--size", "64", "--threads", "1"])
    dense, sparse = transcoder.TABLES["memory"](options)
    assert dense["weights, gradients, moments MB"] == sparse["weights, gradients, moments MB"]
    assert 0.9 < dense["ratio"] < 4 and 0.9 < sparse["ratio"] < 4
