"""`benchmarks/wire.py` runs to its tables on small codes, and what is arithmetic in them is right."""

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
    assert {row.pop("what") for row in record["results"]} == {"bytes"}
    assert [row["bytes"] for row in record["results"]] == [around + length for length in lengths]
    for row in record["results"]:
        assert row["of float32"] == pytest.approx(row["bytes"] / 512)
        assert row["met"] == (min(row["pack MB/s"], row["unpack MB/s"]) >= wire.TARGET)


def test_a_code_is_shorter_than_its_text_on_every_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    path = tmp_path / "found.json"
    small = ["--tokens", "48", "--lengths", "8", "24", "--passage", "16", "--rows", "2", "--answer", "2"]
    words = ["--what", "step", "first_token", "journey", *small, "--repeats", "1", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["wire.py", *words, "--json", str(path)])
    wire = importlib.import_module("wire")
    wire.main()
    rows = json.loads(path.read_text())["results"]
    assert [row["what"] for row in rows] == ["step"] * 3 + ["first_token"] * 3 + ["journey"] * 2
    step, *parts = rows[:3]
    assert sum(part["over bare parts"] for part in parts) == pytest.approx(1)
    assert step["over bare parts"] == pytest.approx(step["ms"] / sum(part["ms"] for part in parts))
    text, code, compress = rows[3:6]
    # Keys and values of 6 layers of 128 numbers in float32, for 48 tokens and for 12 vectors.
    assert [text["cache MB"], code["cache MB"]] == pytest.approx([2 * 6 * 128 * 4 * n / 1e6 for n in (48, 12)])
    assert code["of the text's"] == 0.25 and compress["cache MB"] is None
    for row, tokens in zip(rows[6:], (8, 24), strict=True):
        vectors = tokens // 4
        assert row["tokens"] == tokens and row["wire bytes"] == 17 + 16 + 4 + vectors * (128 + 2 * 4)
        assert row["text/code"] == pytest.approx(row["text ms"] / row["code ms"])


def test_where_a_code_begins_to_be_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    break_even = importlib.import_module("wire_journeys").break_even
    rows = [{"tokens": n, "text/code": ratio} for n, ratio in ((8, 1.2), (16, 0.9), (32, 1.1), (64, 2.0))]
    assert break_even(rows, "code") == "from 32 tokens on, or a little above 16"
    assert break_even(rows[2:], "code") == "from 32 tokens on, or fewer"
    assert break_even(rows[:2], "code") == "at none up to 16 tokens"
