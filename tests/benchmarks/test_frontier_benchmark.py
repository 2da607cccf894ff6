"""The frontier runs to its rows and its picture on a tiny model, and takes rows that are there."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from block_runs import extract_blocks
from extracting import random_texts, saved_model

from consistency_lens import FrozenLM, Report

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RECIPE = """
family: sparse
model_name_or_path: {model}
features: 32
nonlinearity: topk
k: 4
max_steps: 40
per_device_train_batch_size: 64
learning_rate: 1.0e-2
report_split: test
"""


def test_it_runs_to_its_rows_and_makes_them_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    frontier: Any = importlib.import_module("frontier_transcoder")
    recipe, blocks, out = tmp_path / "recipe.yaml", tmp_path / "blocks", tmp_path / "out"
    recipe.write_text(RECIPE.format(model=saved_model()))
    frozen = FrozenLM.from_pretrained(saved_model())
    extract_blocks(blocks, random_texts(60, shortest=6, longest=20), frozen, sites=["resid_mid.*", "mlp_out.*"])
    words = ["--recipe", str(recipe), "--blocks", str(blocks), "--out", str(out), "--l0", "3", "--rows", "6"]
    frontier.main([*words, "--scale", "0.5", "--json", str(tmp_path / "found.json")])
    rows = json.loads((tmp_path / "found.json").read_text())["results"]
    assert [(row["kind"], row["l0"]) for row in rows] == [(kind, 3) for kind in frontier.KINDS]
    assert [row["features"] for row in rows] == [32, 56] and {row["steps"] for row in rows} == {20}
    for row in rows:
        report = Report.load(out / f"{row['kind']}-{row['l0']}" / "report")
        assert row["trained"]["ev"][0] == report.number("ev").value
        assert row["trained"]["l0"][0] == pytest.approx(row["l0"], rel=0.01)
        assert row["shipped"]["kl"][0] == report.number("kl", "jumprelu").value
    assert (out / "frontier.png").stat().st_size > 10_000
    monkeypatch.setattr(frontier, "trained", None)  # nothing is trained again
    frontier.main([*words, "--scale", "0.5"])
