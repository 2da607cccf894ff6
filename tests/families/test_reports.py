"""A report and a card of every family."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from family_rows import Row
from huggingface_hub import ModelCard
from rich.console import Console

from consistency_lens.auto import evaluate_lens, report_of
from consistency_lens.base.comparing.rows import rows_for_people
from consistency_lens.card.columns import COLUMNS, stored
from consistency_lens.cli.final_card import finish_card
from consistency_lens.errors import BadInput
from consistency_lens.evaluation import Report
from consistency_lens.evaluation.examples import examples


@pytest.fixture(scope="module")
def report(row: Row) -> Report:
    return evaluate_lens(row.lens().eval(), row.models(), row.data(), batch_size=5, horizon=0, progress=False)


def test_every_control_stands_beside_the_lens(row: Row, report: Report) -> None:
    numbers = report.parts["all"].numbers
    assert numbers.keys() >= {"lens", *row.controls}
    assert report.number("kl_recovered", row.zero).value == pytest.approx(0, abs=1e-6)
    assert report.number("kl_recovered", row.whole).value == pytest.approx(1, abs=1e-3)
    assert report.number("kl").low <= report.number("kl").value <= report.number("kl").high
    assert {*numbers, *(name for of_code in numbers.values() for name in of_code)} - {"lens"} <= {*report.definitions}
    assert report.verdict and report.data["rows"] > 0


def test_it_depends_on_the_seed_alone_and_is_saved_whole(row: Row, report: Report, tmp_path: Path) -> None:
    again = evaluate_lens(row.lens().eval(), row.models(), row.data(), batch_size=5, horizon=0, progress=False)
    assert again.parts == report.parts and again.traits == report.traits
    report.save(tmp_path)
    assert Report.load(tmp_path).to_dict() == report.to_dict()
    console = Console(width=90, record=True, file=io.StringIO())
    report.show(console, whole=True)
    for said in ((tmp_path / "report.md").read_text(), console.export_text()):
        assert all(control in said for control in row.controls)


def test_tables_for_people_have_one_vocabulary(row: Row) -> None:
    lens, batch = row.lens().eval(), row.batch()
    lens.subject = row.models()
    own = set(lens.describe(lens.compress(batch))[0])
    sampled = rows_for_people(lens, lens.models, [batch], 7)[0]
    carded = examples(lens, report_of(lens), row.data(), "test", 1)[0]
    for shown in (sampled, carded):
        assert set(shown) - set(COLUMNS) <= own - {"explanation"} and shown["explanation"]
        assert shown["kl"] >= 0 and all(isinstance(token, str) for token, _ in shown["before"] + shown["after"])
    assert carded.keys() - {"context", "kl_of_baseline"} <= sampled.keys()
    assert stored(sampled)["before"][0].keys() == {"token", "probability"}


@pytest.mark.parametrize(
    "changes", [{"split": "nowhere"}, {"max_rows": 0}, {"batch_size": 0}, {"horizon": -1}], ids=lambda c: next(iter(c))
)
def test_what_cannot_be_evaluated_is_refused_by_name(row: Row, changes: dict[str, object]) -> None:
    with pytest.raises(BadInput) as caught:
        evaluate_lens(row.lens(), row.models(), row.data(), progress=False, **({"horizon": 0} | changes))
    assert caught.value.field in changes


def test_its_card_says_what_was_measured(row: Row, report: Report, tmp_path: Path) -> None:
    lens = row.lens().eval()
    lens.subject = row.models()
    report.save(tmp_path / "report")
    lens.save_pretrained(tmp_path / "lens")
    card = ModelCard.load(finish_card(lens, report, row.data(), tmp_path / "report", tmp_path / "lens"))
    text = card.text.replace("\\", "")  # names are escaped in Markdown
    found = dict(re.findall(r"^\| (\S+) \| (-?\d[\d.]*)", text, re.MULTILINE))
    for name, number in report.parts["all"].numbers["lens"].items():
        assert float(found[name]) == pytest.approx(number.value, rel=2e-3, abs=6e-4), name
    assert lens.config.code_in_words in text and all(control in text for control in row.controls)
    assert (tmp_path / "lens/report/report.json").is_file()
