"""`benchmarks/study.py`: one change each, rows that are made once, tables between their markers."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from consistency_lens.cli import main as run_lens
from consistency_lens.cli.parsing.request import parse

ROOT = Path(__file__).parents[2]
Load = Callable[[str], ModuleType]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


def number(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def row_of(tables: ModuleType, variant: str, group: str, value: float) -> dict[str, Any]:
    names = (*tables.DOES, *tables.SAYS)
    return {"variant": variant, "group": group, "steps": 3, **{name: number(value) for name in names}}


def test_every_variant_changes_the_recipe_and_begins_from_a_start_that_is_there(load: Load) -> None:
    module, recipe = load("study_variants"), parse(["train", "--config", "demo"]).values
    variants = module.variants_of(recipe)
    assert {"KL alone", "delta stopgrad", "warm start context", "T = 2", "T = 16"} <= set(variants)
    for name, variant in variants.items():
        assert set(variant.changes) <= set(recipe), name
        assert all(recipe[field] != new for field, new in variant.changes.items()) or len(variant.changes) > 1, name
        assert variant.start is None or variants[variant.start].functional, name
    # What the recipe says already is the row of the recipe, and no other.
    other = module.variants_of(
        recipe | {"estimator": "none", "ground_weight": "0", "warm_start": "span", "code_length": 4}
    )
    assert {"decoder frozen", "warm start span", "T = 4"}.isdisjoint(other)
    assert {"estimator policy", "warm start onward", "T = 8, warm start alone"} <= set(other)


def test_numbers_are_shown_with_their_intervals(load: Load) -> None:
    tables = load("study_tables")
    assert tables.cell({"value": 0.981, "low": 0.9774, "high": 1.0}) == ".981 [.977, 1.000]"
    assert tables.cell({"value": -0.2, "low": -0.25, "high": 0.0}) == "-.200 [-.250, .000]"
    assert tables.cell({"value": 4.234, "low": 4.1, "high": 4.3}) == "4.23 [4.10, 4.30]"
    assert tables.cell(None) == ""


def test_tables_go_between_the_markers_and_nowhere_else(load: Load, tmp_path: Path) -> None:
    tables, page = load("study_tables"), tmp_path / "study.md"
    marks = [f"<!-- study: {group} -->\nold\n<!-- /study: {group} -->" for group in tables.GROUPS]
    page.write_text("before\n" + "\nbetween\n".join(marks) + "\nafter\n")
    rows = [row_of(tables, tables.RECIPE, "shared", 0.5), row_of(tables, "T = 4", "own", 0.25)]
    tables.fill(page, rows)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "\nbetween\n" in text and "old" not in text
    assert "| **the recipe** | 3 | .500 [.400, .600] |" in text and "| T = 4 | 3 | .250 [.150, .350] |" in text
    tables.fill(page, rows)
    assert page.read_text() == text
    page.write_text("no markers")
    with pytest.raises(SystemExit, match="needs one line"):
        tables.fill(page, rows)


def test_the_page_has_the_markers(load: Load) -> None:
    text = (ROOT / "docs/study.md").read_text("utf-8")
    for group in load("study_variants").GROUPS:
        assert text.count(f"<!-- study: {group} -->") == text.count(f"<!-- /study: {group} -->") == 1


def test_pictures_are_drawn_with_gaps(load: Load, tmp_path: Path) -> None:
    tables = load("study_tables")
    rows = [row_of(tables, tables.RECIPE, "shared", 0.5), row_of(tables, "T = 4", "own", 0.25)]
    rows[1]["reworded"] = None
    (drawn,) = tables.draw(rows, {}, tmp_path / "images")
    assert drawn.read_bytes().startswith(b"\x89PNG")


def test_a_worker_that_dies_takes_no_job_of_others_with_it(load: Load) -> None:
    """Several times over, while another one is at work."""
    found: dict[str, BaseException | None] = {}
    with load("workers").Workers(2, os.putenv, "STUDY", "begun") as workers:
        jobs = [("sleep", time.sleep, 1.0), *((f"dies {i}", os._exit, 9) for i in range(3)), ("wrong", divmod, 1, 0)]
        jobs += [(f"well {i}", abs, -i) for i in range(3)]
        while jobs or workers.running:
            while jobs and workers.idle:
                name, *job = jobs.pop(0)
                workers.start(name, *job)
            found |= dict(workers.finished())
    well = {name for name, error in found.items() if error is None}
    assert well == {"sleep", "well 0", "well 1", "well 2"}
    assert all(isinstance(found[f"dies {i}"], BrokenProcessPool) for i in range(3))
    assert isinstance(found["wrong"], ZeroDivisionError)


def test_what_failed_is_noted_in_the_table(load: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside what is there; the pictures are of that alone."""
    study, tables = load("study"), load("study_tables")
    options = Namespace(out=str(tmp_path), recipe="demo", seed=0, markdown=tmp_path / "page.md", json=None)
    groups = load("study_variants").GROUPS
    options.markdown.write_text("".join(f"<!-- study: {g} -->\n<!-- /study: {g} -->\n" for g in groups))
    variants = study.variants_of(study.recipe_of(options))
    made, lost = variants["KL alone"], variants["T = 2"]
    study.row_file(tmp_path, made).parent.mkdir()
    study.row_file(tmp_path, made).write_text(json.dumps(row_of(tables, made.name, made.group, 0.5)))
    study.finish(options, list(variants.values()), {lost.name: "BrokenProcessPool()"})
    page = options.markdown.read_text()
    assert f"| {made.name} | 3 | .500" in page and f"| {lost.name} | failed | |" in page
    assert "failed" in capsys.readouterr().out and (tmp_path / "study-frontier.png").is_file()


@pytest.mark.slow
def test_it_runs_resumes_and_refuses_another_recipe(
    load: Load,
    subject_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_lens(["extract", "--config", "demo", "--max_documents", "150", "--output_dir", "rows"]) == 0
    study, page = load("study"), tmp_path / "page.md"
    page.write_text("".join(f"<!-- study: {g} -->\n<!-- /study: {g} -->\n" for g in load("study_variants").GROUPS))

    def run(*words: str) -> dict[str, dict[str, Any]]:
        given = ["--activations", "rows", "--out", "out", "--scale", "0.002", "--rows", "24", "--json", "found.json"]
        monkeypatch.setattr(sys, "argv", ["study.py", *given, *words])
        study.main()
        return {row["variant"]: row for row in json.loads(Path("found.json").read_text())["results"]}

    first = run("--only", "warm start alone", "decoder frozen")
    assert set(first) == {"warm start alone", "decoder frozen"}
    assert first["warm start alone"]["steps"] == 0 < first["decoder frozen"]["steps"]
    # The same rows again, byte for byte, beside the new one, which has a warm start of its own.
    second = run("--only", "decoder frozen", "T = 2", "--workers", "2", "--markdown", str(page))
    assert {name: second[name] for name in first} == first and set(second) == {*first, "T = 2"}
    assert sorted(folder.name for folder in Path("out/warm").iterdir()) == ["T---2", "the-recipe"]
    assert second["T = 2"]["length"]["value"] <= 2 < first["warm start alone"]["length"]["high"]
    assert "| T = 2 |" in page.read_text() and (tmp_path / "images/study-frontier.png").is_file()
    assert "FAILED" not in capsys.readouterr().out
    with pytest.raises(SystemExit, match="seed"):
        run("--seed", "1")
