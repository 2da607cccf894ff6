"""The benchmark of blocks runs to its tables on the smallest model, and what it says adds up."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SMALL = ["--size", "pilot", "--length", "16", "--batch", "32", "--block", "32", "--blocks", "4", "--window", "2"]
SMALL += ["--rows", "4", "--documents", "6", "--stream_block", "40", "--rounds", "1", "--threads", "1"]


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    words = [*SMALL, "--memory_documents", str(request.param), "--json", str(tmp_path / "found.json")]
    monkeypatch.setattr(sys, "argv", ["blocks.py", *words])
    importlib.import_module("blocks").main()
    return json.loads((tmp_path / "found.json").read_text())["results"]


@pytest.mark.parametrize("results", [0], indirect=True)
def test_ways_are_compared_within_one_run(results: list[dict[str, Any]]) -> None:
    rows, at_hand, epoch, int8, bare, streamed = results
    for way in (rows, at_hand, epoch, int8):
        assert way["times rows"] == pytest.approx(way["tokens/s"] / rows["tokens/s"], rel=0.01)
    assert bare["of the bare pass"] == 1
    assert streamed["of the bare pass"] == pytest.approx(streamed["tokens/s"] / bare["tokens/s"], rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("results", [60], indirect=True)
def test_memory_is_flat_in_the_corpus(results: list[dict[str, Any]]) -> None:
    growth = {(row["way"], row["documents"]): row["growth %"] for row in results[6:]}
    assert set(growth) == {(way, n) for way in ("stored", "streamed") for n in (60, 600)}
    assert max(growth.values()) < 25
