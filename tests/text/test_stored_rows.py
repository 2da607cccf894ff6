"""A training row in a row's place, found by its explanation or by its activation, against counts by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from extracting import extract_to, random_texts
from lens_runs import SITE, stirred, tiny_lens
from tiny import shared_lm

from consistency_lens.evaluation import HeldOut, evaluate
from consistency_lens.text.parts.generation import Words
from consistency_lens.text.report import TextReport
from consistency_lens.text.sceptic.stored import NEAREST, NEAREST_TEXT, StoredRows


def words(*rows: list[int]) -> Words:
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    return Words(ids, torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows]))


VECTORS = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0], [9.0, 9.0]])
STORED = StoredRows.holding(VECTORS, [words([5, 5, 6], [6, 7]), words([6, 8], [6])])


def test_rare_tokens_count_more() -> None:
    """Of four texts all hold 6, one each holds 5, 7 and 8."""
    assert STORED.tokens.tolist() == [5, 6, 7, 8]
    rare, common = math.log(4) + 1 / 4, 1 / 4
    assert STORED.rarity.tolist() == pytest.approx([rare, common, rare, rare])
    length = math.hypot(2 * rare, common)
    assert STORED.counts[0].tolist() == pytest.approx([2 * rare / length, common / length, 0, 0])


@pytest.mark.parametrize(("text", "row"), [([5], 0), ([7, 9], 1), ([6, 6, 8], 2), ([6], 3), ([9], 0), ([5, 7, 7], 1)])
def test_the_nearest_text(text: list[int], row: int) -> None:
    assert torch.equal(STORED.by_text(words(text))[0], VECTORS[row])


def test_the_nearest_activation() -> None:
    assert torch.equal(STORED.by_vector(torch.tensor([[0.5, 1.2], [7.0, 8.0]])), VECTORS[[1, 3]])


def test_they_stand_in_the_report_and_so_does_the_suffix_test(tmp_path: Path) -> None:
    """Of documents that are long enough for ten passages."""
    lm, texts = shared_lm("llama"), random_texts(24, shortest=45, longest=60)
    rows = extract_to(tmp_path / "rows", texts, lm, sites=[SITE], continuation_length=8, test_fraction=0.5)
    report = evaluate(stirred(tiny_lens(lm)), lm, rows, TextReport(), HeldOut(max_rows=8, batch_size=8, horizon=1))
    assert report.groups["stored"] == [NEAREST_TEXT, NEAREST]
    assert report.number("cosine", NEAREST).value > report.number("cosine", NEAREST_TEXT).value
    assert report.number("norm_ratio", NEAREST).value == pytest.approx(1, abs=0.3)
    assert report.number("cosine_centred", "mean").value == 0 and report.number("cosine_centred", "self").value == (
        pytest.approx(1, abs=1e-5)
    )
    assert report.number("cosine_centred").value != report.number("cosine").value
    told = {"lens", "shuffled_activation", "context_tail", "own_continuation"}
    assert {code for code, numbers in report.judged.items() if "suffix" in numbers} == told
    assert 0 <= report.traits["suffix_topic"].value <= 1
    assert {"is_continuation"} <= report.judged["lens"].keys() & report.definitions.keys()
