"""What a report becomes on a card: every number and control, pictures that are there, what is wrong in words."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_reports import report_of
from lens_runs import SITE, stirred, tiny_lens, tiny_rows
from test_report_files import HISTORY
from tiny import shared_lm

from consistency_lens.base.comparing import TokenSwap
from consistency_lens.base.saving.lens_card import TrainingRecord, facts_of
from consistency_lens.card import CardFacts, model_card
from consistency_lens.evaluation import Number, Report
from consistency_lens.evaluation.about import QUESTIONS
from consistency_lens.evaluation.examples import examples
from consistency_lens.evaluation.presenting.card import lay_beside, pick, with_report
from consistency_lens.frozen import FrozenModels
from consistency_lens.text.report import TextReport

SCORES = {
    "lens": 0.97,
    "context_tail": 0.66,
    "empty_text": 0.1,
    "shuffled_activation": -0.3,
    "own_continuation": 0.9,
    "reworded": 0.95,
}


def near(value: float) -> Number:
    return Number(value, value - 0.01, value + 0.01)


@pytest.fixture
def report() -> Report:
    found = report_of(SCORES, on_facts={"lens": 0.99, "context_tail": 0.5}, training=HISTORY)
    found.judged["lens"] = {"fact_precision": near(0.5)}
    found.traits["distinct"] = near(0.9)
    found.definitions.update(fact_precision="share that is true", distinct="share that is new")
    return found


@pytest.fixture
def facts() -> CardFacts:
    return facts_of(tiny_lens(shared_lm("llama")).config, TrainingRecord(name="a-lens"))


def rows_of(*harm: tuple[float, float]) -> list[dict[str, Any]]:
    return [{"explanation": f"t{i}", "kl": kl, "kl_of_baseline": m} for i, (kl, m) in enumerate(harm)]


def test_every_number_and_every_control_with_its_interval(report: Report, facts: CardFacts) -> None:
    text = model_card(with_report(facts, report)).replace("\N{NO-BREAK SPACE}", " ")
    for name, part in report.parts.items():
        for code, numbers in part.numbers.items():
            assert f"{numbers['kl_recovered']}" in text
            assert code == "lens" or f"| {code} |".replace("_", "\\_") in text, code
        for measured, number in part.numbers["lens"].items():
            assert (name != "all" and measured not in QUESTIONS) or str(number) in text, measured
        for numbers in part.differences.values():
            assert str(numbers["kl_recovered"]) in text
    assert report.verdict.split(":")[0] in text and "Without a report" not in text
    assert "200 rows of 100 documents of made up, split test" in text and "50 rows" in text
    assert "share that is true" in text and "share that is new" in text and "kept by reworded" in text
    few = dataclasses.replace(report, data={**report.data, "documents": 4})
    assert "[" not in re.sub(r"\]\(|\w\[|\[[^\]]*\]\(", "", numbers_of(model_card(with_report(facts, few))))


def numbers_of(card: str) -> str:
    return card.partition("<!-- generated: numbers -->")[2].partition("<!-- /generated -->")[0]


def test_the_lens_stands_above_its_controls(report: Report, facts: CardFacts) -> None:
    section = model_card(with_report(facts, report)).partition("### Every control")[2].partition("###")[0]
    names = re.findall(r"^\| ([^|]+?) \|", section, flags=re.M)
    assert names[1] == "**the lens**" and names[2].startswith("*words that do not come")
    assert names.index("context\\_tail") < names.index("empty\\_text") < names.index("shuffled\\_activation")


def test_pictures_lie_where_the_card_says(report: Report, facts: CardFacts, tmp_path: Path) -> None:
    report.save(tmp_path / "report")
    (tmp_path / "lens").mkdir()
    card = lay_beside(tmp_path / "report", tmp_path / "lens", with_report(facts, report))
    text = model_card(card)
    links = re.findall(r"\]\((report/[^)]+)\)", text)
    assert len(links) == 4 and all((tmp_path / "lens" / link).is_file() for link in links)
    assert Report.load(tmp_path / "lens" / "report") == report
    least = report_of({"lens": 0.5, "empty_text": 0.1})
    least.save(tmp_path / "again")
    card = lay_beside(tmp_path / "again", tmp_path / "lens", with_report(facts, least))
    assert set(card.plots.values()) == {"report/controls.png", "report/position.png"}
    assert not (tmp_path / "lens" / "report" / "training.png").exists(), "a picture of an earlier report"


def test_a_report_without_a_score_still_makes_a_card(report: Report, facts: CardFacts) -> None:
    for part in report.parts.values():
        for numbers in part.numbers.values():
            numbers.pop("kl_recovered")
    card = with_report(facts, dataclasses.replace(report, retention={}))
    assert card.primary == "kl"
    values = [control.value for control in card.controls if control.group.startswith("words that do not")]
    assert values == sorted(values) and "## Controls" in model_card(card)


def test_the_best_and_the_worst_where_there_was_something_to_lose() -> None:
    idle = [(0.0, 0.1)] * 8
    rows = rows_of((0.5, 9), (0.1, 9), (0.2, 9), (0.3, 9), (3.0, 9), (2.0, 9), (1.0, 9), (0.05, 9), *idle)
    good, bad = pick(rows)
    assert [row["kl"] for row in good] == [0.05, 0.1, 0.2] and [row["kl"] for row in bad] == [3.0, 2.0, 1.0]
    same = [row | {"explanation": "the same"} for row in rows]
    assert len(pick(same)[0]) == 1
    for few in ([], rows[:1]):
        good, bad = pick(few)
        assert not good and not bad
    good, bad = pick(rows[:4])
    assert len(good) == len(bad) == 1 and good != bad


def test_explanations_are_what_the_lens_says_and_does() -> None:
    subject, rows = shared_lm("llama"), tiny_rows()
    lens = stirred(tiny_lens(subject))
    lens.subject = subject
    every = examples(lens, TextReport(), rows, "test")
    batch, *_ = TextReport().shown(lens, FrozenModels.of(subject), rows, "test")
    mean, found = rows.mean(SITE), every[: len(batch["doc_id"])]
    assert len(every) == len(rows.splits["test"]) > len(found)
    swap, code = TokenSwap.of(subject, batch), lens.compress(batch)
    kl = swap.measure(lens.restore(code, batch))["kl"]
    assert [row["explanation"] for row in found] == [row["explanation"] for row in lens.describe(code)]
    torch.testing.assert_close(torch.tensor([row["kl"] for row in found]), kl)
    (edit,) = lens.restore(code, batch)
    of_mean = swap.measure(edit.at(mean.expand_as(edit.value)))["kl"]
    torch.testing.assert_close(torch.tensor([row["kl_of_baseline"] for row in found]), of_mean)
    likeliest = subject.tokenizer.decode(swap.clean[0, 0].argmax())
    assert found[0]["before"][0][0] == likeliest and found[0]["context"].endswith("⟧")
