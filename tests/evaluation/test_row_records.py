"""Intervals: sums over documents against loops, and coverage against a truth that is known."""

import numpy as np
import pytest
import torch

from consistency_lens.evaluation.bootstrap import Number, Records, Samples, ratio
from consistency_lens.evaluation.quantities import AT_P, Measured


def number(samples: Samples, code: str, name: str) -> Number | None:
    return Measured(samples, AT_P).numbers(code, names=[name]).get(name)


def records_of(values: dict[str, dict[str, np.ndarray]]) -> Records:
    """In two batches, as they would come."""
    records = Records()
    for code, measures in values.items():
        for part in (slice(None, 7), slice(7, None)):
            records.add(code, {name: torch.from_numpy(value[part]) for name, value in measures.items()})
    return records


@pytest.fixture
def some() -> tuple[Records, np.ndarray]:
    rng = np.random.default_rng(0)
    documents = rng.integers(0, 9, 40) * 10
    codes = {code: {m: rng.random(40) for m in ("kl", "kl_after", "ce", "squared_error", "direction_error", "top1")}
             for code in ("lens", "mean", "resample", "half")}  # fmt: skip
    codes["row"] = {"ce": rng.random(40) / 4, "spread": rng.random(40), "direction_spread": rng.random(40)}
    return records_of(codes), documents


def test_each_draw_is_a_sum_over_drawn_documents(some: tuple[Records, np.ndarray]) -> None:
    records, documents = some
    subset = np.arange(40) % 3 == 0
    samples = Samples(records, documents, {"third": subset}, draws=50, seed=3)
    names = np.unique(documents)
    counts = np.random.default_rng(3).multinomial(len(names), np.full(len(names), 1 / len(names)), size=50)
    assert (counts.sum(1) == len(names)).all() and counts.max() > 1
    value = records.column("lens", "kl")
    for of, kept in (("", np.ones(40, bool)), ("third", subset)):
        slow = [
            sum(value[(documents == n) & kept].sum() * c for n, c in zip(names, row, strict=True)) for row in counts
        ]
        np.testing.assert_allclose(samples.total("lens", "kl", of), [value[kept].sum(), *slow])
        assert samples.rows(of) == kept.sum()
    assert samples.documents == len(names)


def test_numbers_against_their_formulas(some: tuple[Records, np.ndarray]) -> None:
    records, documents = some
    samples, column = Samples(records, documents), records.column
    kl, mean = column("lens", "kl"), column("mean", "kl")
    clean = column("row", "ce")
    found = Measured(samples, AT_P).numbers("lens")
    assert found["kl"].value == pytest.approx(kl.mean())
    assert found["kl_recovered"].value == pytest.approx(1 - kl.mean() / mean.mean())
    rise, rise_of_other = column("lens", "ce") - clean, column("resample", "ce") - clean
    assert found["loss_recovered"].value == pytest.approx(1 - rise.sum() / rise_of_other.sum())
    assert found["fve"].value == pytest.approx(
        1 - column("lens", "squared_error").sum() / column("row", "spread").sum()
    )
    shares = column("lens", "direction_error").sum() / column("row", "direction_spread").sum()
    assert found["fve_nrm"].value == pytest.approx(1 - shares)
    assert "kl_horizon" not in found  # it was not measured
    for value in found.values():
        assert value.low <= value.value <= value.high


def test_differences_and_shares_use_the_same_draws(some: tuple[Records, np.ndarray]) -> None:
    records, documents = some
    records.values["twin", "kl"] = records.values["lens", "kl"]
    records.weights["twin", "kl"] = records.weights["lens", "kl"]
    samples = Samples(records, documents)
    measured = Measured(samples, AT_P)
    of = ["kl_recovered"]
    assert measured.differences("lens", "twin", of) == {"kl_recovered": Number(0.0, 0.0, 0.0)}
    apart = measured.differences("lens", "half", of)["kl_recovered"]
    here, there = measured.draws("lens", "kl_recovered"), measured.draws("half", "kl_recovered")
    assert here is not None and there is not None
    assert (apart.low, apart.high) == tuple(np.percentile((here - there)[1:], [2.5, 97.5]))
    assert measured.retained("lens", "lens", ["top1"]) == {"top1": Number(1.0, 1.0, 1.0)}


def test_nothing_is_retained_of_nothing() -> None:
    harm = {"lens": {"kl": np.full(9, 2.0)}, "mean": {"kl": np.ones(9)}, "cut": {"kl": np.full(9, 3.0)}}
    samples = Samples(records_of(harm), np.arange(9))
    assert Measured(samples, AT_P).retained("cut", "lens", ["kl_recovered"]) == {}


def test_rows_without_a_value_do_not_count() -> None:
    values = np.array([1.0, np.nan, 3.0, np.nan, *[2.0] * 8])
    samples = Samples(records_of({"lens": {"length": values}}), np.arange(12))
    assert samples.mean("lens", "length")[0] == 2.0
    empty = Samples(records_of({"lens": {"length": values * np.nan}}), np.arange(12))
    assert number(empty, "lens", "length") is None


def test_a_weighted_number_is_a_ratio_of_sums() -> None:
    records = Records()
    records.add("lens", {"precision": torch.tensor([2.0, 0.0, 1.0])}, {"precision": torch.tensor([2.0, 0.0, 4.0])})
    found = number(Samples(records, np.arange(3)), "lens", "precision")
    assert found is not None and found.value == 0.5


def test_an_interval_of_95_percent_holds_the_truth_so_often() -> None:
    rng, hits, trials = np.random.default_rng(0), 0, 300
    for trial in range(trials):
        documents = np.repeat(np.arange(60), 4)
        values = np.repeat(rng.normal(size=60), 4) + rng.normal(size=240)  # rows of a document go together
        found = number(Samples(records_of({"lens": {"x": values}}), documents, draws=400, seed=trial), "lens", "x")
        assert found is not None
        hits += found.low <= 0 <= found.high
    assert 0.91 <= hits / trials <= 0.98


def test_rows_of_one_document_are_not_independent() -> None:
    values = np.repeat(np.random.default_rng(1).normal(size=20), 10)
    together = number(Samples(records_of({"a": {"x": values}}), np.repeat(np.arange(20), 10)), "a", "x")
    apart = number(Samples(records_of({"a": {"x": values}}), np.arange(200)), "a", "x")
    assert together is not None and apart is not None
    assert together.high - together.low > 2 * (apart.high - apart.low)


def test_a_ratio_without_a_denominator_is_no_number() -> None:
    assert Number.of(ratio(np.ones(5), np.zeros(5))) is None
