"""What a text lens gets wrong is said in plain words, each with its number; what is not wrong is not said."""

import pytest
from fake_reports import report_of

from consistency_lens.evaluation import Number, Report
from consistency_lens.text.report.limits import limits_of


def near(value: float) -> Number:
    return Number(value, value - 0.01, value + 0.01)


@pytest.fixture
def report() -> Report:
    scores = {"lens": 0.97, "context_tail": 0.66, "empty_text": 0.1, "own_continuation": 0.9, "reworded": 0.95}
    found = report_of(scores)
    found.judged["lens"] = {"fact_precision": near(0.5)}
    found.traits["distinct"] = near(0.9)
    found.definitions.update(fact_precision="share that is true", distinct="share that is new")
    return found


def test_no_limit_contradicts_the_table() -> None:
    """A control that is worse does not do without a lens, and what was reworded was reworded."""
    near, apart = (report_of({"lens": 0.96, "context_tail": 0.1, "greedy": 0.9}) for _ in range(2))
    for report, low in ((near, -0.002), (apart, 0.002)):
        all_rows = report.parts["all"]
        score = all_rows.numbers["lens"]["kl_recovered"]
        all_rows.numbers["greedy"]["kl_recovered"] = Number(score.value - 0.0001, score.low, score.high)
        all_rows.differences["greedy"]["kl_recovered"] = Number(0.0001, low, 0.004)
    assert "no lens is needed" not in " ".join(limits_of(apart, content_blind=False))
    assert "no need of a lens is shown: greedy" in " ".join(limits_of(near, content_blind=False))
    near.retention.clear()
    near.parts["all"].numbers["reworded"] = near.parts["all"].numbers["lens"]
    assert "nothing reworded them" not in " ".join(limits_of(near, content_blind=False))


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ({"lens": 0.8, "context_tail": 0.4, "empty_text": 0.73}, "Content-blind over all rows: empty_text (no text"),
        ({"lens": 0.8, "context_tail": 0.4, "shuffled_activation": 0.75}, "Content-blind over all rows: shuffled"),
        ({"lens": 0.8, "shuffled_activation": -0.2}, "no text control was measured"),
        ({"lens": -0.4, "context_tail": 0.5}, "not better than context_tail"),
        ({"lens": 0.9, "context_tail": 0.1, "reworded": 0.2}, "Closer to a private code than to language"),
        ({"lens": 0.9, "context_tail": 0.1, "reworded": 0.7}, "Some of what it says is in the choice of words"),
        ({"lens": 0.9, "context_tail": 0.1}, "private code was not measured"),
        ({"lens": 0.9, "context_tail": 0.1, "own_continuation": 0.95}, "For the next token alone no lens is needed"),
        ({"lens": 0.9, "context_tail": 0.1, "table": 0.95}, "no lens is needed: table, the mean training activation"),
        (
            {"lens": 0.9, "context_tail": 0.1, "slot_1": 0.1, "slot_2": 0.1, "slot_3": 0.9, "slot_4": 0.9},
            "a code of 2 slots",
        ),
        ({"lens": 0.9, "context_tail": 0.1}, "makes things up was not measured"),
        ({"lens": 0.9, "context_tail": 0.1}, "Measured on 100 documents only"),
    ],
)
def test_what_is_wrong_is_said(scores: dict[str, float], words: str) -> None:
    assert words in " ".join(report_of(scores).about.limits)


def test_what_is_not_wrong_is_not_said(report: Report) -> None:
    report.data["documents"] = 1000
    report.judged["lens"] = {"fact_precision": near(0.99)}
    assert limits_of(report, content_blind=False) == [
        "What it names is mostly true, not always: fact_precision 0.990 [0.980, 1.000] (share that is true)."
    ]


def test_confabulation_and_sameness_are_named(report: Report) -> None:
    report.traits.update(distinct=near(0.2), text_nll_above_samples=near(1.5))
    report.definitions["text_nll_above_samples"] = "how much less natural"
    said = " ".join(limits_of(report, content_blind=False))
    assert "It confabulates" in said and "fact_precision 0.500 [0.490, 0.510]" in said
    assert "the same words for many activations: distinct is 0.200" in said
    assert "1.500 [1.490, 1.510] nats per token above" in said
