"""Rate against fidelity: bits of each medium by hand, controls beside the lens, one table and one figure."""

from __future__ import annotations

import math
import runpy
from pathlib import Path
from typing import Any

import pytest
from extracting import ROOT
from fake_reports import report_of

from consistency_lens import BadInput, Report
from consistency_lens.evaluation import Number

RATE: dict[str, Any] = runpy.run_path(str(ROOT / "benchmarks/rate_fidelity.py"))


def number(value: float) -> Number:
    return Number(value, value - 0.01, value + 0.01)


def words() -> Report:
    """Eight words of three bits each."""
    report = report_of({"lens": 0.9, "truncation_1": 0.3, "truncation_4": 0.7, "context_tail": 0.5})
    report.traits.update(text_nll=number(3 * math.log(2)), length=number(8.0))
    return report


def as_if(family: str, **scores: float) -> Report:
    report = report_of({"lens": 0.9})
    report.lens["family"] = family
    report.parts["all"].numbers.update({code: {"kl_recovered": number(score)} for code, score in scores.items()})
    return report


def features() -> Report:
    """Of two layers, ten features active in each: 100 bits say which, and 8 bits each of the twenty."""
    report = as_if("crosslayer_transcoder", values_4=0.6, values_8=0.89, pca=0.4)
    report.lens["sites"] = ["resid_mid.0", "resid_mid.1"]
    report.parts["all"].numbers["lens"].update(rate=number(260.0), l0=number(10.0))
    report.traits["value_bits"] = number(8.0)
    return report


def soft() -> Report:
    """Passages of 16 tokens in 4 vectors."""
    report = as_if("latent_wire", int4=0.8, first=0.2, shuffled=-0.5)
    report.traits.update(vectors=number(4.0), tokens_per_vector=number(4.0))
    sizes = {"lens": 100.0, "int4": 40.0, "first": 10.0, "text": 60.0}
    report.judged.update({code: {"bytes": number(size)} for code, size in sizes.items()})
    return report


@pytest.mark.parametrize(
    ("report", "bits", "controls"),
    [
        (words(), {"truncation_1": 3, "truncation_4": 12, "lens": 24}, {"context_tail": 24}),
        (features(), {"values_4": 180, "values_8": 260, "lens": 260}, {"pca": 260}),
        (soft(), {"int4": 20, "lens": 50}, {"first": 5, "shuffled": 50}),
    ],
    ids=["words", "features", "soft"],
)
def test_bits_are_those_by_hand(report: Report, bits: dict[str, float], controls: dict[str, float]) -> None:
    points = RATE["points_of"](report, "run")
    assert {p.code: p.bits for p in points if not p.control} == pytest.approx(bits)
    assert {p.code: p.bits for p in points if p.control} == pytest.approx(controls)
    for point in points:
        score = report.parts["all"].numbers[point.code]["kl_recovered"]
        assert (point.value, point.low, point.high) == (score.value, score.low, score.high)


def test_one_command_makes_table_and_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words().save(tmp_path / "run/report")
    RATE["main"]([str(tmp_path / "run"), "--out", str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert (
        said == (tmp_path / "out/rate_fidelity.md").read_text("utf-8") and "| `context_tail`, control | 24.0 |" in said
    )
    assert (tmp_path / "out/rate_fidelity.png").stat().st_size > 5000
    with pytest.raises(BadInput, match=r"no report\.json is in it"):
        RATE["main"]([str(tmp_path)])
    with pytest.raises(BadInput, match="its family is toy"):
        RATE["points_of"](as_if("toy"), "run")
