"""The views of the Space, tab by tab, as functions: what they show is what the lens says."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest
from fake_reports import features_report, soft_report
from space_runs import HISTORY, HOSTILE, TEXT, last, lens, new_desk, run_folder, tiny_report

from consistency_lens import BadInput, Edit, RatePoint, Report
from consistency_lens.text import view

pytest.importorskip("gradio", reason="the Space needs the extra 'space'")
import curves
import drawing
import looks
import rates
import reports
import tables
from desk import Desk
from lenses import Lenses
from links import Choice
from views import compare, edit, rate, read, report, scan


@pytest.fixture
def desk() -> Desk:
    return new_desk()


@pytest.fixture
def choice() -> Choice:
    return Choice("some_demo_run", TEXT)


# Read


def test_reading_gives_every_token_its_colour_and_opens_the_last(desk: Desk, choice: Choice) -> None:
    found, rows, strip, near, said = last(read.reading(desk, choice))
    assert (found.text, found.position) == (TEXT, 8) and "role='status'" in said
    assert rows == lens().explain(TEXT)
    levels = [int(x) for x in re.findall(r"class='token kl(\d)", strip)]
    assert levels == [drawing.level(row["kl"]) for row in rows] and len(levels) == 8
    assert strip.count("tabindex='0'") == 1 and "aria-pressed='true'" in strip
    assert "Token 8" in near and all(f"<small>{drawing.nats(row['kl'])}</small>" in strip for row in rows)


def test_a_text_is_read_once_for_everybody(desk: Desk, choice: Choice) -> None:
    first = last(desk.scans.read(choice.lens, choice.text))
    assert last(desk.scans.read(choice.lens, choice.text))[0] is first[0]


def test_long_texts_come_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks, "CHUNK", 3)
    steps = [(len(rows), of) for rows, of in looks.scan(lens(), TEXT)]
    assert steps == [(3, 8), (6, 8), (8, 8)]


def test_a_look_agrees_with_the_lens() -> None:
    (row,) = lens().explain(TEXT, [5])
    near = view.look(lens(), TEXT, 5)
    assert (near.position, near.token, near.explanation) == (5, row["token"], row["explanation"])
    assert near.kl == pytest.approx(row["kl"], abs=1e-4) and near.cosine == pytest.approx(row["cosine"], abs=1e-4)
    chances = {token: (before, after) for token, before, after in near.bars}
    for side, pairs in enumerate((row["before"], row["after"])):
        token, chance = pairs[0]
        assert chances[token][side] == pytest.approx(chance, abs=1e-4)
    assert sum(sample.times for sample in near.samples) == view.SAMPLES
    assert all(0 < p <= 1 for _, p in near.words) and 0 <= near.agreement <= 1


def test_controls_are_what_they_say() -> None:
    near = view.look(lens(), TEXT, 5)
    names = [name for name, _ in near.controls]
    assert "mean activation" in names[0] and "token 1" in names[1] and "before it" in names[2]
    frozen = lens().subject
    assert frozen is not None
    (site,) = lens().config.sites or []
    ids = frozen.tokenizer(TEXT, return_tensors="pt")["input_ids"]
    mean = frozen.read({"input_ids": ids}, site)[site][0, 1:].mean(0)
    tail = frozen.tokenizer.decode(ids[0, 1:6])
    said = [lens().explain(TEXT, [1])[0]["explanation"], tail, ""]
    edits = [Edit(site, mean), *(lens().restore(lens().reread([text]), {})[0] for text in said)]
    context = {"input_ids": ids[:, :6]}
    p = frozen.logits(context, keep=1)[0, 0].log_softmax(-1)
    for (_, kl), made in zip(near.controls, edits, strict=True):
        edit = Edit(made.site, made.value, -1)
        q = frozen.logits(context, edit, keep=1)[0, 0].log_softmax(-1)
        assert kl == pytest.approx(float((p.exp() * (p - q)).sum()), abs=1e-3)


@pytest.mark.parametrize("position", [0, 9, -1])
def test_there_is_no_such_token(position: int) -> None:
    with pytest.raises(BadInput, match="tokens 1 to 8"):
        view.look(lens(), TEXT, position)


def test_hostile_words_stay_words() -> None:
    row = lens().explain(TEXT, [1])[0] | {"token": HOSTILE, "explanation": HOSTILE}
    near = view.look(lens(), TEXT, 2)
    evil = view.Look(**{**vars(near), "token": HOSTILE, "explanation": HOSTILE, "words": [(HOSTILE, 0.5)]})
    for page in (drawing.tokens([row], 1), drawing.near(evil.near()), drawing.notice(HOSTILE, "error")):
        assert "<script" not in page and "<img" not in page and "onerror='" not in page
        assert "&lt;script&gt;" in page


def test_whoever_stops_half_way_has_one_text_and_not_two(
    desk: Desk, choice: Choice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looks, "CHUNK", 3)
    words = "w9 w8 w7 w6 w5 w4 w3 w2"
    _begun, *partial, whole = read.reading(desk, Choice(choice.lens, words, 5))
    assert [len(rows) for _, rows, *_ in partial] == [3, 6] and whole[0].position == 5
    for found, rows, _, near, _ in partial:
        assert found.text == words and [row["token"] for row in rows] == words.split()[: len(rows)] and near == ""
        _, files, _ = scan.shown_of(desk, found, rows)
        stored = parquet.read_table(io.BytesIO(b64decode(re.findall(r"base64,([^']+)'", files)[0])))
        assert stored.schema.metadata[b"text"] == words.encode() and len(stored) == len(rows)


# Scan


def test_the_table_and_the_files_hold_the_scan(desk: Desk, choice: Choice) -> None:
    rows = lens().explain(TEXT)
    table = scan.table_of(rows)
    assert [line[0] for line in table["data"]] == list(range(1, 9)) and len(table["headers"]) == len(table["data"][0])
    assert all(isinstance(line[2], float) for line in table["data"])
    worst = [line[2] for line in scan.table_of(rows, "worst")["data"]]
    assert worst == sorted(worst, reverse=True)
    html = scan.downloads(desk, choice, rows)
    files = [b64decode(found) for found in re.findall(r"base64,([^']+)'", html)]
    stored = parquet.read_table(io.BytesIO(files[0]))
    assert stored["kl"].to_pylist() == [row["kl"] for row in rows]
    assert stored.schema.metadata[b"text"] == TEXT.encode() and stored["before"][0][0]["token"].as_py()
    lines = list(csv.DictReader(io.StringIO(files[1].decode("utf-8-sig"))))
    assert [line["token"] for line in lines] == [row["token"] for row in rows]
    assert f">{len(rows)}<" in scan.summary(rows)


def test_of_a_text_that_was_refused_there_is_nothing_to_scan(desk: Desk) -> None:
    figures, files, table = scan.shown_of(desk, Choice("some_demo_run"), [])
    assert figures == files == "" and table["data"] == []


def test_no_cell_of_the_csv_is_a_formula() -> None:
    row = lens().explain(TEXT, [1])[0] | {"explanation": "=cmd|' /C calc'!A0"}
    (line,) = csv.DictReader(io.StringIO(tables.as_csv([row]).decode("utf-8-sig")))
    assert line["explanation"].startswith("'=")


# Edit


def test_an_edit_shows_what_steering_found(desk: Desk, choice: Choice) -> None:
    html, said = last(edit.steering(desk, choice.at(5), 5, "w9 w8", 2.0, 0.0, 4, 0))
    found = lens().steer(TEXT, 5, "w9 w8", strength=2.0, temperature=0.0, continuation_length=4, top=edit.TOP)
    assert f"<dd>{drawing.nats(found.kl)}</dd>" in html and "role='status'" in said
    assert all(drawing.safe(said) in html for said in (found.continuation_after, found.old_explanation, "w9 w8"))
    off = "none to measure" if found.off_target is None else drawing.nats(found.off_target)
    assert f"<dd>{off}</dd>" in html


@pytest.mark.parametrize(
    ("words", "said"), [("", "Write"), ("zork", "zork"), ("w1 \x07", "control"), ("w1 " * 9, "tokens")]
)
def test_words_that_cannot_be_read_are_refused(desk: Desk, choice: Choice, words: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        last(edit.steering(desk, choice, 5, words, 1.0, 0.0, 4, 0))


def test_nothing_can_be_edited_before_a_text_is_read(desk: Desk) -> None:
    with pytest.raises(BadInput, match="nothing to read"):
        last(edit.steering(desk, Choice("some_demo_run"), None, "w1", 1.0, 0.0, 4, 0))


@pytest.mark.parametrize("number", [None, float("nan"), float("inf"), 10**400, "1"])
def test_an_emptied_or_absurd_number_is_met_with_a_message(desk: Desk, choice: Choice, number: Any) -> None:
    for given in ((number, 0.0, 4, 0), (1.0, number, 4, 0), (1.0, 0.0, number, 0), (1.0, 0.0, 4, number)):
        with pytest.raises(BadInput, match="Give a number"):
            last(edit.steering(desk, choice, 5, "w9 w8", *given))
    with pytest.raises(BadInput, match="Give a number"):
        last(read.opening(desk, choice, number))


def test_the_first_token_cannot_be_edited(desk: Desk, choice: Choice) -> None:
    with pytest.raises(BadInput, match="from 1 on"):
        last(edit.steering(desk, choice, "0", "w9 w8", 1.0, 0.0, 4, 0))


# Compare


def test_no_choice_is_the_first_lens(desk: Desk, choice: Choice) -> None:
    html, table, *_ = last(compare.comparing(desk, choice, None, None))
    assert html.count(f"<p>{desk.lenses.default}</p>") == 2
    assert len(table["data"]) == 8 and all(first == second for *_, first, second in table["data"])


DAMAGED = [
    "{",
    "[1]",
    json.dumps([HISTORY[0] | {"step": "<script>"}]),
    json.dumps([HISTORY[0] | {"eval_text_nll": nll} for nll in (-1e308, 1e308)]),
]


@pytest.mark.parametrize("history", DAMAGED)
def test_a_damaged_history_is_said_in_its_place(tmp_path: Path, history: str) -> None:
    (tmp_path / "history.json").write_text(history)
    desk = new_desk()
    desk.lenses = Lenses([str(run_folder())])
    desk.lenses.folders = {"a": tmp_path}
    shown = compare.curves(desk, "a")
    assert "damaged" in shown and "<script" not in shown


def test_two_stages_stand_side_by_side(desk: Desk, choice: Choice) -> None:
    names = desk.lenses.names
    html, table, curve, _ = last(compare.comparing(desk, choice, *names))
    rows = [desk.lenses.get(name).explain(TEXT) for name in names]
    words = [[row["explanation"] for row in side] for side in rows]
    assert [line[4:] for line in table["data"]] == [list(pair) for pair in zip(*words, strict=True)]
    assert drawing.nats(sum(row["kl"] for row in rows[1]) / 8) in html
    assert curve.count("<circle") == len(HISTORY) and "step 3: kl_recovered 0.800" in curve


def test_the_curve_goes_up_and_to_the_right_where_both_get_better() -> None:
    dots = re.findall(r"cx='([\d.]+)' cy='([\d.]+)'", curves.draw({"a": HISTORY}))
    x, y = ([float(dot[i]) for dot in dots] for i in (0, 1))
    assert x == sorted(x) and y == sorted(y, reverse=True) and len(dots) == 3
    close = [row | {curves.Y: 0.98 + 0.001 * number} for number, row in enumerate(HISTORY)]
    ticks = re.findall(r"text-anchor='end'>([-.\d]+)<", curves.draw({"a": close}))
    assert len(ticks) > 2 and len(set(ticks)) == len(ticks), "no two ticks say the same"
    assert curves.measured([{"step": 1, "eval_kl_recovered": 1.0}]) == []
    assert "no history" in curves.draw({"a": []})
    assert "<circle" in curves.draw({"a": HISTORY[:1]})  # one point has no extent


# Report


def test_the_report_is_shown_whole() -> None:
    page = report.page_of(run_folder() / "lens")
    found = Report.load(run_folder() / "report")
    assert drawing.safe(found.verdict) in page and page.count("<img") == len(found.about.pictures)
    for part in found.parts.values():
        for code, numbers in part.numbers.items():
            assert f">{code}" in page and str(numbers["kl_recovered"]) in page
    assert all(f"<dt>{name}</dt>" in page for name in found.definitions)
    assert page.count("type='radio'") == page.count("class='pane'") == 4 and page.count(" checked") == 1
    assert reports.measured_since(run_folder() / "lens") == found.by_position[0]["first"]


SPOILED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no object": lambda found: [found],
    "a part is missing": lambda found: {"parts": found["parts"]},
    "more than there is": lambda found: found | {"more": 1},
    "markup for a number": lambda found: found | {"data": found["data"] | {"rows": "<script>"}},
    "markup for a position": lambda found: found | {"by_position": [found["by_position"][0] | {"first": "<script>"}]},
}


@pytest.mark.parametrize("how", SPOILED)
def test_a_damaged_report_is_a_sentence_and_hinders_no_reading(tmp_path: Path, how: str) -> None:
    tiny_report().save(tmp_path)
    spoiled = SPOILED[how](json.loads((tmp_path / "report.json").read_text()))
    (tmp_path / "report.json").write_text(json.dumps(spoiled))
    assert reports.measured_since(tmp_path) == 0
    with pytest.raises(BadInput, match=r"report\.json: .*expected") as caught:
        report.page_of(tmp_path)
    assert "\n" not in str(caught.value)


def test_markup_in_a_report_does_not_run_and_its_pictures_have_fixed_names(tmp_path: Path) -> None:
    tiny_report().save(tmp_path)
    found = json.loads((tmp_path / "report.json").read_text())
    found["parts"][HOSTILE], found["data"]["split"] = found["parts"]["all"], HOSTILE
    found["definitions"] = dict.fromkeys([*found["definitions"], "../../x"], HOSTILE)
    (tmp_path / "report.json").write_text(json.dumps(found))
    page = report.page_of(tmp_path)
    assert (
        "<script" not in page and "<img src=x" not in page and page.count("<img") == len(tiny_report().about.pictures)
    )


def test_a_lens_without_a_report_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="evaluate"):
        report.page_of(tmp_path)
    assert reports.measured_since(tmp_path) == 0
    tiny_report().save(tmp_path)  # as a published lens has it at its root
    assert "<table" in report.page_of(tmp_path)


def test_a_lens_without_a_report_shows_no_other_one(tmp_path: Path) -> None:
    """Nor does it take the place of a message: a lens may be chosen while another tab is open."""
    lens().save_pretrained(tmp_path / "bare")
    known = Lenses([str(run_folder()), str(tmp_path / "bare")], subject="unused")
    first, bare = known.names[0], known.names[-1]
    assert "class='verdict'" in report.page_for(known, first)
    page = report.page_for(known, bare)
    assert "role='alert'" in page and "brings no report along" in page and "verdict" not in page
    assert "role='alert'" in report.page_for(known, "../../etc")


# Rate


def with_reports(folder: Path, **reports: Report | None) -> Lenses:
    """Folders of lenses that bring these reports along."""
    for name, found in reports.items():
        lens().save_pretrained(folder / name)
        if found is not None:
            found.save(folder / name / "report")
    return Lenses([str(folder / name) for name in reports], subject="unused")


def test_every_report_of_the_page_is_a_line_with_its_controls(tmp_path: Path) -> None:
    known = with_reports(tmp_path, a=tiny_report(), b=features_report(), c=soft_report(), bare=None)
    page = rate.page_of(known)
    points, damage = rate.points_of(known)
    assert not damage and {point.medium for point in points} == {"words", "features", "soft tokens"}
    assert page.count("<polyline") == 4 and page.count("<circle") == sum(not point.control for point in points)
    assert page.count("control-point") == sum(point.control for point in points)
    for point in points:
        assert f">{point.name}" in page and f"<td class='number'>{point.bits:,.1f}" in page
    assert "<th scope='row'>c</th><th scope='row'>the lens</th><td class='number'>50.0</td>" in page
    ticks = [float(each.replace(",", "")) for each in re.findall(r"text-anchor='middle'>([\d,.]+)<", page)]
    assert ticks == sorted(ticks) and len(ticks) >= 2


def test_stages_of_a_run_share_one_line(tmp_path: Path) -> None:
    """Whether the report lies beside the lens, or in the lens as well; a stage has a line where it has a report."""
    run = shutil.copytree(run_folder(), tmp_path / "a_run")
    known = Lenses([str(run)], subject="unused")
    assert len(known.names) > 1 and rate.page_of(known).count("<polyline") == 1
    shutil.copytree(run / "report", run / "lens/report")
    assert rate.page_of(known).count("<polyline") == 1
    alone = Lenses([str(run / "checkpoint-2")], subject="unused")
    assert "brings a report along" in rate.page_of(alone), "the run's report is not about this stage"
    shutil.copytree(run / "report", run / "checkpoint-2/report")
    assert rate.page_of(known).count("<polyline") == 2 and rate.page_of(alone).count("<polyline") == 1


def test_a_page_without_a_whole_report_says_so(tmp_path: Path) -> None:
    assert "brings a report along" in rate.page_of(with_reports(tmp_path, bare=None))
    known = with_reports(tmp_path, broken=soft_report(), whole=tiny_report())
    file = tmp_path / "broken/report/report.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"traits": {}}))
    page = rate.page_of(known)
    assert "role='alert'" in page and "KeyError" in page and page.count("<polyline") == 1


def test_markup_in_the_name_of_a_lens_stays_text(tmp_path: Path) -> None:
    known = with_reports(tmp_path, **{"<b>bold": tiny_report()})
    page = rate.page_of(known)
    assert "<b>" not in page and "&lt;b&gt;bold" in page


@pytest.mark.parametrize("bits", [[34.6], [316.0, 508.0], [3.0], [1.0, 900.0]])
def test_the_axis_of_bits_has_marks(bits: list[float]) -> None:
    points = [RatePoint("words", "a", "lens", each, 0.5, 0.4, 0.6, False) for each in bits]
    assert len(re.findall(r"text-anchor='middle'>[\d,.]+<", rates.draw(points))) >= len(set(bits))
