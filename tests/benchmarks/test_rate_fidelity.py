"""One command makes a table and a figure of the reports of runs."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
from extracting import ROOT
from fake_reports import features_report, soft_report, words_report

from consistency_lens import BadInput

RATE: dict[str, Any] = runpy.run_path(str(ROOT / "benchmarks/rate_fidelity.py"))


def test_one_command_makes_table_and_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, report in (("a", words_report()), ("b", features_report()), ("c", soft_report())):
        report.save(tmp_path / name / "report")
    RATE["main"]([*(str(tmp_path / name) for name in "abc"), "--out", str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert said == (tmp_path / "out/rate_fidelity.md").read_text("utf-8")
    assert "| words | a | `context_tail`, control | 24.0 |" in said and "| soft tokens | c | the lens | 50.0 |" in said
    assert (tmp_path / "out/rate_fidelity.png").stat().st_size > 5000
    with pytest.raises(BadInput, match=r"no report\.json is in it"):
        RATE["main"]([str(tmp_path)])


def test_runs_keep_their_names_apart() -> None:
    assert RATE["names_of"](["outputs/a/lens", "outputs/b", "outputs/c/lens/report"]) == ["a", "b", "c"]
    assert RATE["names_of"](["one/a", "two/a/lens"]) == ["one/a", "two/a/lens"]
