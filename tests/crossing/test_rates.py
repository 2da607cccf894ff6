"""Bits of each medium by hand, with the controls beside the lens."""

from __future__ import annotations

import pytest
from fake_reports import as_if, features_report, soft_report, words_report

from consistency_lens import BadInput, Report, rate_points


@pytest.mark.parametrize(
    ("report", "bits", "controls"),
    [
        (words_report(), {"truncation_1": 3, "truncation_4": 12, "lens": 24}, {"context_tail": 24}),
        (features_report(), {"values_4": 180, "values_8": 260}, {"pca": 260}),
        (soft_report(), {"8x int4": 10, "int4": 20, "lens": 50}, {"first": 5, "shuffled": 50}),
    ],
    ids=["words", "features", "soft"],
)
def test_bits_are_those_by_hand(report: Report, bits: dict[str, float], controls: dict[str, float]) -> None:
    points = rate_points(report, "run")
    assert {p.code: p.bits for p in points if not p.control} == pytest.approx(bits)
    assert {p.code: p.bits for p in points if p.control} == pytest.approx(controls)
    for point in points:
        score = report.parts["all"].numbers[point.code]["kl_recovered"]
        assert (point.value, point.low, point.high) == (score.value, score.low, score.high)
    assert [point.control for point in points] == sorted(point.control for point in points)
    lines = [{p.code for p in points if p.line == line and not p.control} for line in {p.line for p in points}]
    assert all(len({code.startswith("8x") for code in line}) <= 1 for line in lines), "as many vectors each"
    assert {point.name for point in points if point.code == "lens"} <= {"the lens"}


def test_only_families_whose_bits_are_known_have_a_rate() -> None:
    with pytest.raises(BadInput, match="its family is toy"):
        rate_points(as_if("toy"), "run")
