"""`benchmarks/wire.py` runs to its table on a small code, and its bytes are those of the arithmetic."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest


def test_it_runs_to_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    path = tmp_path / "found.json"
    words = ["--vectors", "8", "--size", "16", "--group", "4", "--repeats", "1", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["wire.py", *words, "--json", str(path)])
    wire = importlib.import_module("wire")
    wire.main()
    record = json.loads(path.read_text())
    assert record["settings"]["vectors"] == 8
    around, scales = 21, 8 * 4 * 2
    lengths = [2 * 128, scales + 128, scales + 96, scales + 64]
    assert [row["bytes"] for row in record["results"]] == [around + length for length in lengths]
    for row in record["results"]:
        assert row["of float32"] == pytest.approx(row["bytes"] / 512)
        assert row["met"] == (min(row["pack MB/s"], row["unpack MB/s"]) >= wire.TARGET)
