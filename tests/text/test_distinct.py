"""How many different things a lens says, counted in blocks of one size."""

import numpy as np
import pytest

from consistency_lens.evaluation.bootstrap import Records, Samples
from consistency_lens.text.report.distinct import BLOCK, add_distinct


def test_different_texts_are_counted_once() -> None:
    records = Records()
    texts = ["a b", "a b", "b c a", "c"]
    add_distinct(records, texts)
    samples = Samples(records, np.arange(4))
    assert samples.mean("traits", "distinct")[0] == pytest.approx(3 / 4)
    assert samples.mean("traits", "distinct_1")[0] == pytest.approx(3 / 8)  # a, b, c of 8 words
    assert samples.mean("traits", "distinct_2")[0] == pytest.approx(3 / 4)  # ab, bc, ca of 4 pairs


def test_texts_are_told_apart_within_blocks_of_one_size() -> None:
    """More rows of the same kind do not make a lens look more monotonous."""
    texts = [f"text {i % 250}" for i in range(BLOCK)]
    for copies in (1, 3):
        records = Records()
        add_distinct(records, texts * copies + ["a rest that does not count"] * 7 * (copies - 1))
        samples = Samples(records, np.arange(len(texts) * copies + 7 * (copies - 1)))
        assert samples.mean("traits", "distinct")[0] == pytest.approx(250 / BLOCK)
        assert samples.mean("traits", "distinct_1")[0] == pytest.approx(251 / (2 * BLOCK))
