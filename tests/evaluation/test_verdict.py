"""The first line, for each case there is: made from values per row, so that nothing but the wording is tried."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from consistency_lens.evaluation import Report
from consistency_lens.evaluation.assemble import assemble
from consistency_lens.evaluation.samples import Records, Samples

ROWS = 200
ON_FACTS = np.arange(ROWS) % 4 == 0
LOOKS = {"own_continuation": "ahead", "reworded": "tampered", "paraphrase": "tampered", "lens": "lens"}
EDITS = ("self", "mean")


def report_of(
    scores: Mapping[str, float],
    fve: float = 0.8,
    on_facts: Mapping[str, float] | None = None,
    spread: float = 0.02,
    training: Sequence[Mapping[str, Any]] = (),
) -> Report:
    """Codes that recover so much; `on_facts` where they do otherwise on every fourth row."""
    rng, records = np.random.default_rng(0), Records()
    groups: dict[str, list[str]] = {}
    for code, score in {"self": 1.0, "mean": 0.0, **scores}.items():
        groups.setdefault("edit" if code in EDITS else LOOKS.get(code, "text"), []).append(code)
        kl = np.full(ROWS, 1 - score)
        if on_facts and code in on_facts:
            kl[ON_FACTS] = 1 - on_facts[code]
        noise = spread * rng.normal(size=ROWS) if code not in EDITS else 0.0
        measures = {"kl": kl + noise, "kl_horizon": kl, "top1": np.full(ROWS, max(score, 0.0))}
        measures["squared_error"] = np.full(ROWS, 1 - fve)
        records.add(code, {name: torch.from_numpy(value) for name, value in measures.items()})
    records.add("row", {"spread": torch.ones(ROWS)})
    samples = Samples(records, np.arange(ROWS) // 2, {"fact_positions": ON_FACTS} if on_facts else {})
    data = {"split": "test", "rows": ROWS, "documents": 100, "documents_of_split": 100, "seconds": 1.0}
    return assemble(
        samples,
        groups,
        np.arange(ROWS),
        8,
        lens={"family": "consistency_lens", "subject": "tiny", "sites": ["resid_post.1"]},
        data=data | {"near_duplicates_of_split": 3, "stored_difference": 1e-7, "corpus": "made up"},
        judged={"fact_positions": "a fact comes next"} if on_facts else {},
        training=training,
    )


def test_words_that_carry() -> None:
    report = report_of({"lens": 0.97, "context_tail": 0.66, "empty_text": 0.1, "own_continuation": 0.96})
    assert report.verdict.startswith("The words carry what the model was thinking: kl_recovered 0.97")
    assert "above the best text that does not look at the activation (context_tail)" in report.verdict
    assert ", 0.31" in report.verdict
    assert not report.content_blind  # own_continuation looks ahead: it is near, and no sign of blindness
    assert any(
        remark.startswith("own_continuation, which looks at what the model will say") for remark in report.remarks
    )


@pytest.mark.parametrize(
    ("score", "words"), [(0.95, "carry what"), (0.7, "carry much of what"), (0.3, "carry a little")]
)
def test_words_are_as_strong_as_the_score(score: float, words: str) -> None:
    assert words in report_of({"lens": score, "empty_text": 0.05}).verdict


@pytest.mark.parametrize("code", ["empty_text", "context_tail_trained", "shuffled_activation"])
def test_content_blind(code: str) -> None:
    blind = report_of({"lens": 0.8, "context_tail": 0.4, code: 0.73})
    assert blind.content_blind and blind.verdict.startswith("Content-blind: kl_recovered is 0.8")
    assert f"and {code} (" in blind.verdict and "within 10 %" in blind.verdict
    assert not report_of({"lens": 0.8, "context_tail": 0.4, code: 0.7}).content_blind


def test_content_blind_but_for_the_rows_that_matter() -> None:
    scores, on_facts = {"lens": 0.97, "context_tail": 0.97}, {"lens": 0.98, "context_tail": 0.65}
    report = report_of(scores, on_facts=on_facts)
    assert report.content_blind and report.verdict.startswith("Content-blind")
    assert "but on the 50 rows where a fact comes next, the words carry what the model was thinking" in report.verdict
    assert "above context_tail." in report.verdict
    same = report_of(scores, on_facts={"lens": 0.98, "context_tail": 0.95})
    assert same.content_blind and "; but on the" not in same.verdict


def test_worse_than_the_mean_and_fve_that_hides_it() -> None:
    report = report_of({"lens": -0.4, "context_tail": 0.5}, fve=0.6)
    assert report.verdict.startswith("Worse than the mean: kl_recovered is -0.4")
    assert "although fve is 0.600" in report.verdict
    assert any("FVE is positive while KL recovery is negative" in remark for remark in report.remarks)
    plain = report_of({"lens": -0.4, "context_tail": 0.5}, fve=-0.2)
    assert "fve" not in plain.verdict and not any("FVE is positive" in remark for remark in plain.remarks)


def test_no_better_than_the_mean() -> None:
    assert report_of({"lens": 0.0}, spread=0.5).verdict.startswith("No better than the mean")


def test_undecided_where_intervals_are_not_apart() -> None:
    verdict = report_of({"lens": 0.5, "context_tail": 0.3}, spread=1.0).verdict
    assert verdict.startswith("Undecided") and "evaluate more documents" in verdict


def test_a_private_code_is_called_one() -> None:
    scores = {"lens": 0.9, "context_tail": 0.4}
    assert "private code" in report_of(scores | {"reworded": 0.2}).verdict
    assert "private code" in report_of(scores | {"paraphrase": 0.2}).verdict
    # The world knows its synonyms: where it has reworded, that counts.
    assert "private code" not in report_of(scores | {"reworded": 0.8, "paraphrase": 0.2}).verdict


def test_without_a_text_control_the_score_stands_alone() -> None:
    verdict = report_of({"lens": 0.95, "shuffled_activation": -0.2}).verdict
    assert verdict.startswith("The codes carry what") and "no text control" in verdict


def test_remarks_count_near_duplicates_and_say_that_the_swap_is_exact() -> None:
    remarks = " ".join(report_of({"lens": 0.9, "empty_text": 0.1}).remarks)
    assert "3 of the 100 documents of the split nearly repeat one of another split" in remarks and "3.0 %" in remarks
    assert f"self is exactly 0 on all {ROWS} rows" in remarks
