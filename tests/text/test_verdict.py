"""The first line, for each case there is: made from values per row, so that nothing but the wording is tried."""

import pytest
from fake_reports import ROWS, report_of


def test_words_that_carry() -> None:
    report = report_of({"lens": 0.97, "context_tail": 0.66, "empty_text": 0.1, "own_continuation": 0.96})
    assert report.verdict.startswith("The words carry what the model was thinking: kl_recovered 0.97")
    assert "above the best text that does not look at the activation (context_tail)" in report.verdict
    assert ", 0.31" in report.verdict
    assert not report.about.alarm  # own_continuation looks ahead: it is near, and no sign of blindness
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
    assert blind.about.alarm and blind.verdict.startswith("Content-blind: kl_recovered is 0.8")
    assert f"and {code} (" in blind.verdict and "within 10 %" in blind.verdict
    assert not report_of({"lens": 0.8, "context_tail": 0.4, code: 0.7}).about.alarm


def test_content_blind_but_for_the_rows_that_matter() -> None:
    scores, on_facts = {"lens": 0.97, "context_tail": 0.97}, {"lens": 0.98, "context_tail": 0.65}
    report = report_of(scores, on_facts=on_facts)
    assert report.about.alarm and report.verdict.startswith("Content-blind")
    assert "but on the 50 rows where a fact comes next, the words carry what the model was thinking" in report.verdict
    assert "above context_tail." in report.verdict
    same = report_of(scores, on_facts={"lens": 0.98, "context_tail": 0.95})
    assert same.about.alarm and "; but on the" not in same.verdict


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


def test_what_needs_no_decoder_is_named_where_the_lens_is_not_above_it() -> None:
    scores = {"lens": 0.97, "context_tail": 0.5, "greedy": 0.9}
    assert "no decoder wrote" not in report_of(scores | {"table": 0.8}).verdict
    report = report_of(scores | {"greedy_trained": 0.975})
    assert "but greedy_trained, which no decoder wrote, reaches 0.97" in report.verdict
    assert not report.about.good and not report.about.alarm
    assert any("What needs no decoder: greedy 0.9" in remark for remark in report.remarks)


def test_a_code_of_two_slots_is_called_one() -> None:
    scores = {"lens": 0.96, "context_tail": 0.4, "slot_1_dropped": 0.0}
    slots = {f"slot_{i}": 0.96 for i in range(3, 9)}
    verdict = report_of(scores | slots | {"slot_1": 0.2, "slot_2": 0.1}, spread=0.0).verdict
    assert "it is a code of two slots: words 1 and 2 of a text carry 1.00 of what its words carry" in verdict
    assert "one slot: word 2 of a text carries" in report_of(scores | slots | {"slot_1": 0.95, "slot_2": 0.1}).verdict
    spread = {f"slot_{i}": 0.5 for i in range(1, 9)}
    assert "slot" not in report_of(scores | spread).verdict
    assert "slot" not in report_of(scores | {"slot_1": 0.2, "slot_2": 0.1}).verdict, "two of two words tell nothing"


def test_what_is_asked_later_is_in_the_first_line_where_it_was_asked() -> None:
    scores = {"lens": 0.84, "context_tail": 0.1}
    report = report_of(scores, asked={"lens": 0.75})
    assert "model gives the answer in 0.750" in report.verdict and "(kl_asked_recovered 0.750" in report.verdict
    assert any("what a question asks later (kl_asked_recovered, 0.750" in remark for remark in report.remarks)
    assert "asked" not in report_of(scores).verdict


def test_without_a_text_control_the_score_stands_alone() -> None:
    verdict = report_of({"lens": 0.95, "shuffled_activation": -0.2}).verdict
    assert verdict.startswith("The codes carry what") and "no text control" in verdict


def test_remarks_count_near_duplicates_and_say_that_the_swap_is_exact() -> None:
    remarks = " ".join(report_of({"lens": 0.9, "empty_text": 0.1}).remarks)
    assert "3 of the 100 documents of the split nearly repeat one of another split" in remarks and "3.0 %" in remarks
    assert f"self is exactly 0 on all {ROWS} rows" in remarks
