"""`benchmarks/steer.py`: what it compares with is what it says, and it runs to its table."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from consistency_lens import ConsistencyLens, FrozenLM
from consistency_lens.demo.reword import mentions
from consistency_lens.demo.stories import stories
from consistency_lens.demo.words import KINDS, wordings

ROOT = Path(__file__).parents[2]


@pytest.fixture
def steer(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("steer")


def test_a_twin_differs_in_one_fact(steer: ModuleType) -> None:
    rows = stories(30, seed=0)
    cases = steer.cases_of(rows, seed=0)
    assert len(cases) == sum(len(row.fact_positions) for row in rows) > 60
    for case in cases:
        twin = case.said_otherwise(case.words, case.new).split()
        changed = {(before, after) for before, after in zip(case.words, twin, strict=True) if before != after}
        assert changed and {after for _, after in changed} == {case.new}
        assert {before for before, _ in changed} <= set(wordings(case.kind, case.old))
        assert case.words[case.position] == case.old  # word i is token i + 1
        assert case.new in KINDS[case.kind] and case.new != case.old
        assert all(mention.kind != case.kind for mention in mentions(case.unrelated))


def test_choices_hang_on_the_seed(steer: ModuleType) -> None:
    rows = stories(10, seed=0)
    first, again, other = (steer.cases_of(rows, seed) for seed in (0, 0, 1))
    assert first == again != other


def test_contexts_end_where_the_fact_is_needed(steer: ModuleType) -> None:
    from tiny import tiny_lm

    cases = steer.cases_of(stories(3, seed=0), seed=0)
    batch = steer.contexts(tiny_lm(), cases, [" ".join(case.words) for case in cases])
    assert batch["attention_mask"].sum(1).tolist() == [case.position + 1 for case in cases]
    assert batch["attention_mask"][:, -1].all() and batch["continuation_mask"][:, 0].all()
    left = [min(steer.REACH, len(case.words) - case.position) for case in cases]
    assert batch["continuation_mask"].sum(1).tolist() == left


@pytest.mark.slow
def test_it_runs_to_its_table(
    steer: ModuleType,
    subject_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With an untrained lens that is made to name facts: its decoder is asked nothing, the text says them all."""
    lens = ConsistencyLens.from_subject(FrozenLM.from_pretrained(subject_folder), "resid_post.1")
    said = " ".join(next(iter(values)) for values in list(KINDS.values())[:8])
    monkeypatch.setattr(ConsistencyLens, "describe", lambda self, code: [{"explanation": said}] * len(code))
    lens.save_pretrained(tmp_path / "lens")
    path = tmp_path / "found.json"
    command = [
        "steer.py",
        "--lens",
        str(tmp_path / "lens"),
        "--stories",
        "20",
        "--strengths",
        "1",
        "--json",
        str(path),
    ]
    monkeypatch.setattr(sys, "argv", command)
    steer.main()
    results = json.loads(path.read_text())["results"]
    by_way = {row["what is added"]: row for row in results if "what is added" in row}
    assert set(by_way) == {"none", *steer.WAYS}
    assert by_way["none"]["kl"]["value"] == by_way["none"]["off-target x 1000"]["value"] == 0.0
    # A swap with the twin: the frozen model says the twin's fact, as its own training demands.
    assert by_way["real difference"]["new fact"]["value"] > 0.9
    assert by_way["random direction"]["new fact"]["value"] < 0.1
    sizes = [by_way[way]["size"]["value"] for way in ("edited words", "random word", "random direction")]
    assert sizes[0] > 0 and sizes == pytest.approx([sizes[0]] * 3, rel=1e-3)
    assert "Editing a fact word" in capsys.readouterr().out
