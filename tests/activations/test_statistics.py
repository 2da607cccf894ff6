"""Streamed statistics are those of all rows at once; sketches see copies and near copies, and nothing else."""

from __future__ import annotations

from functools import reduce
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from extracting import extract_to, random_texts, vectors_of

from consistency_lens.activations.statistics import (
    QUANTILES,
    SKETCH_SIZE,
    SiteStatistics,
    count_near_duplicates,
    sketch,
)

SITES = ["embed", "resid_post.2"]


def test_a_stored_extraction_describes_its_training_rows(tmp_path: Path) -> None:
    found = extract_to(tmp_path / "rows", random_texts(150), sites=SITES)
    for site in SITES:
        vectors = vectors_of(found.splits["train"], site).astype(np.float64)
        np.testing.assert_allclose(found.statistics[f"{site}.mean"], vectors.mean(0), atol=1e-10)
        np.testing.assert_allclose(found.statistics[f"{site}.variance"], vectors.var(0), atol=1e-10)
        np.testing.assert_allclose(found.mean(site).numpy(), vectors.mean(0), atol=1e-6)
        norms = np.sort(np.linalg.norm(vectors, axis=1))
        said = found.metadata["norms"][site]
        assert list(said) == [str(quantile) for quantile in QUANTILES]
        assert (said["0.0"], said["1.0"]) == pytest.approx((norms[0], norms[-1]), rel=1e-12)
        for quantile in QUANTILES[1:-1]:
            exact = norms[int(np.ceil(quantile * len(norms))) - 1]
            assert said[str(quantile)] == pytest.approx(exact, rel=0.005)


def test_held_out_rows_do_not_enter_the_statistics(tmp_path: Path) -> None:
    found = extract_to(tmp_path / "rows", random_texts(150))
    everything = np.concatenate([vectors_of(rows, "resid_post.1") for rows in found.splits.values()])
    assert np.abs(found.statistics["resid_post.1.mean"] - everything.mean(0)).max() > 1e-3


def parts_of(vectors: np.ndarray, cuts: list[int]) -> list[SiteStatistics]:
    return [SiteStatistics.of(vectors[a:b]) for a, b in pairwise([0, *cuts, len(vectors)])]


def in_order(parts: list[SiteStatistics], size: int) -> SiteStatistics:
    return reduce(SiteStatistics.merge, parts, SiteStatistics.empty(size))


def assert_same(one: SiteStatistics, other: SiteStatistics, rtol: float = 1e-9) -> None:
    assert one.count == other.count
    np.testing.assert_allclose(one.mean, other.mean, rtol=rtol)
    np.testing.assert_allclose(one.variance, other.variance, rtol=rtol)
    np.testing.assert_array_equal(one.norm_bins, other.norm_bins)
    np.testing.assert_array_equal(one.norm_counts, other.norm_counts)
    np.testing.assert_array_equal(one.extremes, other.extremes)


@pytest.mark.parametrize("shift", [0.0, 1e6])
@pytest.mark.parametrize("cuts", [[1], [500], [10, 10, 10], [0, 300], [300, 1000], [100, 100, 101, 900]])
def test_parts_merge_to_the_whole_however_they_are_cut_and_grouped(cuts: list[int], shift: float) -> None:
    vectors = np.random.default_rng(0).normal(size=(1000, 8)).astype(np.float32).astype(np.float64) + shift
    parts, size = parts_of(vectors, cuts), 8
    whole = SiteStatistics.of(vectors)
    from_the_left = in_order(parts, size)
    from_the_right = parts[-1]
    for part in reversed(parts[:-1]):
        from_the_right = part.merge(from_the_right)
    for merged in (from_the_left, from_the_right):
        assert_same(merged, whole)
        np.testing.assert_allclose(merged.variance, vectors.var(0), rtol=1e-9)
    np.testing.assert_allclose(whole.variance, 1, rtol=0.2)


def test_merging_is_associative_with_empty_parts() -> None:
    vectors = np.random.default_rng(1).normal(size=(30, 3))
    a, b, empty = SiteStatistics.of(vectors[:10]), SiteStatistics.of(vectors[10:]), SiteStatistics.empty(3)
    for one in (empty.merge(a).merge(b), a.merge(empty).merge(b), a.merge(b.merge(empty)), empty.merge(a.merge(b))):
        assert_same(one, SiteStatistics.of(vectors))
    nothing = empty.merge(SiteStatistics.of(vectors[:0]))
    assert nothing.count == 0 and nothing.norm_quantiles() == {} and (nothing.variance == 0).all()


def test_quantiles_of_norms_over_many_orders_of_magnitude() -> None:
    norms = np.sort(10 ** np.random.default_rng(2).uniform(-6, 6, 5000))
    vectors = norms[:, None] * np.array([[0.6, 0.8]])
    said = in_order(parts_of(vectors, [7, 1200, 1200, 4000]), 2).norm_quantiles((0.0, 0.1, 0.5, 0.9, 1.0))
    exact = [norms[max(0, int(np.ceil(q * 5000)) - 1)] for q in (0.0, 0.1, 0.5, 0.9, 1.0)]
    assert list(said.values()) == pytest.approx(exact, rel=0.005)


def test_vectors_of_zeros_have_norm_zero() -> None:
    assert set(SiteStatistics.of(np.zeros((3, 4))).norm_quantiles().values()) == {0.0}


def share_of_common_shingles(one: np.ndarray, other: np.ndarray) -> float:
    a, b = ({tuple(ids[i : i + 5]) for i in range(len(ids) - 4)} for ids in (one, other))
    return len(a & b) / len(a | b)


def documents(count: int, words: int, length: int = 200, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, words, (count, length)).astype(np.int32)


@pytest.mark.parametrize("words", [50, 50_000])
def test_unrelated_texts_share_no_sketch(words: int) -> None:
    sketches = np.array([sketch(ids) for ids in documents(1500, words)])
    assert sketches.shape == (1500, SKETCH_SIZE) and sketches.dtype == np.uint64
    assert count_near_duplicates(sketches, np.zeros(1500, int), ["train"]) == {"all": 0, "train": 0}


@pytest.mark.parametrize("changes", [1, 2, 12, 30])
def test_near_copies_are_found_as_often_as_the_sketch_promises(changes: int) -> None:
    rng, found, promised = np.random.default_rng(changes), [], []
    for ids in documents(600, 5000):
        copy = ids.copy()
        copy[rng.choice(len(ids), changes, replace=False)] = rng.integers(5000, 6000, changes)
        share = share_of_common_shingles(ids, copy)
        promised.append(1 - (1 - share**4) ** SKETCH_SIZE)
        found.append((sketch(ids) == sketch(copy)).any())
    # Four standard errors of 600 draws.
    assert np.mean(found) == pytest.approx(np.mean(promised), abs=4 * 0.5 / np.sqrt(600))
    assert np.mean(found) > 0.95 or changes > 2
    assert np.mean(found) < 0.35 or changes < 30


def test_short_documents_have_a_sketch_too() -> None:
    assert (sketch(np.array([7, 8])) == sketch(np.array([7, 8]))).all()
    assert (sketch(np.array([7, 8])) != sketch(np.array([7, 9]))).all()


def test_near_duplicates_are_counted_once_and_by_the_side_they_leak_to() -> None:
    one, two, three = (sketch(ids) for ids in documents(3, 5000))
    sketches = np.array([one, two, one, one, three, two])
    counted = count_near_duplicates(sketches, np.array([0, 0, 0, 1, 2, 0]), ["train", "validation", "test"])
    # three repeat an earlier one; `one` is in train twice and in validation once; `two` only in train
    assert counted == {"all": 3, "train": 2, "validation": 1, "test": 0}


def test_copies_and_near_copies_are_counted_in_the_metadata(tmp_path: Path) -> None:
    texts = random_texts(60, shortest=55, longest=60)
    copies = [text.upper().replace("W", "w") for text in texts[:10]]
    near = [text.rsplit(" ", 1)[0] + " w3" for text in texts[10:40]]
    counted = extract_to(tmp_path / "rows", texts + copies + near).metadata["near_duplicates"]
    assert 10 + 27 <= counted["all"] <= 40
    # Exact copies never leak; near copies are split as if they were strangers.
    assert 0 < counted["train"] + counted["validation"] + counted["test"] <= 60
    alone = extract_to(tmp_path / "alone", texts).metadata["near_duplicates"]
    assert alone == {"all": 0, "train": 0, "validation": 0, "test": 0}
    copied = extract_to(tmp_path / "copied", texts + copies).metadata["near_duplicates"]
    assert copied == {"all": 10, "train": 0, "validation": 0, "test": 0}
