"""The Space, view by view, as functions; and its page, asked over loopback."""

from __future__ import annotations

import ast
import csv
import io
import os
import re
import socket
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest
import torch
from space_runs import HISTORY, HOSTILE, SPACE, TEXT, lens, lenses, run_folder, tiny_report

import consistency_lens
from consistency_lens import BadInput, Report

gradio_client = pytest.importorskip("gradio_client", reason="the Space needs the extra 'space'")
import app  # noqa: E402
import curves  # noqa: E402
import drawing  # noqa: E402
import gradio as gr  # noqa: E402
import lenses as places  # noqa: E402
import looks  # noqa: E402
import reports  # noqa: E402
import tables  # noqa: E402
import texts  # noqa: E402
from arriving import arrive  # noqa: E402
from desk import Desk, Scans, sentence, told  # noqa: E402
from links import Choice, choice_of  # noqa: E402
from views import compare, edit, read, report, scan  # noqa: E402


@pytest.fixture
def desk() -> Desk:
    """As the page has it, with no components: the views' functions use none."""
    return Desk(lenses(), Scans(lenses()), *([None] * 6))  # type: ignore[arg-type]


@pytest.fixture
def choice() -> Choice:
    return Choice("some_demo_run", TEXT)


def last(found: Iterator[Any]) -> Any:
    return list(found)[-1]


# What a text may be


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Write a few words"),
        (" \n\t ", "Write a few words"),
        ("w1 " * 400_000, "at most 4,000 characters"),
        ("w1 " * 200, "at most 128 tokens"),
        ("w1 \x00 w2", r"U\+0000"),
        ("w1 \x1b[31m w2", r"U\+001B"),
        ("w1 \u202e w2", r"U\+202E"),
        ("w1 \ud800 w2", r"U\+D800"),
        ("w1 <eos> w2", "<eos> is a mark"),
        ("<bos> w1", "<bos> is a mark"),
    ],
)
def test_unfit_texts_are_refused_in_a_sentence(text: str, said: str) -> None:
    subject = lens().subject
    assert subject is not None
    with pytest.raises(BadInput, match=said) as error:
        texts.checked(text, subject)
    shown = sentence(error.value)
    assert len(shown) < 400 and all(ord(c) >= 32 for c in shown)


def test_markup_is_a_text_like_any_other() -> None:
    subject = lens().subject
    assert subject is not None
    assert texts.checked(HOSTILE, subject) == HOSTILE
    assert texts.unknown_words("w1 <b> w2", subject) == ["<b>"]


def test_what_was_wrong_becomes_a_notice_without_markup(desk: Desk) -> None:
    @told(2)
    def work(text: str) -> Iterator[Any]:
        yield from read.reading(desk, Choice("some_demo_run", text))

    (*untouched, said) = last(work("<script>x</script>" * 1000))
    assert len(untouched) == 2 and "role='alert'" in said
    assert "&lt;script&gt;" in said and "<script" not in said and len(said) < 500


def test_examples_are_of_the_demo_or_of_the_run(tmp_path: Path) -> None:
    import pyarrow as pa

    subject = lens().subject
    assert subject is not None
    parquet.write_table(pa.table({"context": ["w1 w2 ⟦w3⟧", "w1 w2 ⟦w3⟧", "w4 ⟦w5⟧"]}), tmp_path / "samples.parquet")
    assert texts.examples(subject, [tmp_path / "none", tmp_path]) == ["w1 w2 w3", "w4 w5"]
    assert texts.examples(subject, []) == texts.SENTENCES


# Where lenses come from


def test_places_are_named_by_the_command_then_the_environment_then_the_file_then_the_newest_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(places, "HERE", tmp_path / "spaces_demo")
    monkeypatch.setattr(places, "NAMED_IN", tmp_path / "lens.txt")
    monkeypatch.delenv("LENS", raising=False)
    with pytest.raises(BadInput, match=r"run_lens\.py"):
        places.chosen_places()
    for age, run in enumerate(["a_demo_1", "a_demo_2", "demo", "elsewhere"]):
        folder = tmp_path / "outputs" / run / "lens"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        os.utime(folder / "config.json", (1000 - age, 1000 - age))
    assert places.chosen_places() == [str(tmp_path / "outputs/a_demo_1/lens")]
    (tmp_path / "lens.txt").write_text("someone/a-lens\n")
    assert places.chosen_places() == ["someone/a-lens"]
    monkeypatch.setenv("LENS", "someone/another")
    assert places.chosen_places() == ["someone/another"]
    assert places.chosen_places(["x", "y"]) == ["x", "y"]


def test_of_a_run_the_checkpoints_can_be_chosen_and_share_the_subject() -> None:
    found = lenses()
    assert found.names == ["some_demo_run", "some_demo_run · checkpoint-2"]
    first, second = (found.get(name) for name in found.names)
    assert first.subject is second.subject and first is not second
    with pytest.raises(BadInput, match="Choose one of"):
        found.get("../../etc/passwd")
    assert places.Lenses([str(run_folder() / "lens")]).names == found.names


def test_a_folder_without_a_lens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="folder of a lens"):
        places.Lenses([str(tmp_path)]).get()
    with pytest.raises(BadInput, match="the Hub says"):
        places.Lenses(["nobody/there-is-no-such-lens"])


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
    near = looks.look(lens(), TEXT, 5)
    assert (near.position, near.token, near.explanation) == (5, row["token"], row["explanation"])
    assert near.kl == pytest.approx(row["kl"], abs=1e-4) and near.cosine == pytest.approx(row["cosine"], abs=1e-4)
    chances = {token: (before, after) for token, before, after in near.bars}
    for side, pairs in enumerate((row["before"], row["after"])):
        token, chance = pairs[0]
        assert chances[token][side] == pytest.approx(chance, abs=1e-4)
    assert sum(sample.times for sample in near.samples) == looks.SAMPLES
    assert all(0 < p <= 1 for _, p in near.words) and 0 <= near.agreement <= 1


def test_controls_are_what_they_say() -> None:
    near = looks.look(lens(), TEXT, 5)
    names = [name for name, _ in near.controls]
    assert "mean activation" in names[0] and "token 1" in names[1] and "before it" in names[2]
    frozen = lens().subject
    assert frozen is not None
    (site,) = lens().config.sites or []
    ids = frozen.tokenizer(TEXT, return_tensors="pt")["input_ids"]
    mean = frozen.read({"input_ids": ids}, site)[site][0, 1:].mean(0)
    tail = frozen.tokenizer.decode(ids[0, 1:6])
    said = [lens().explain(TEXT, [1])[0]["explanation"], tail, ""]
    edits = [consistency_lens.Edit(site, mean), *(lens().restore(lens().reread([text]), {})[0] for text in said)]
    context = {"input_ids": ids[:, :6]}
    p = frozen.logits(context, keep=1)[0, 0].log_softmax(-1)
    for (_, kl), made in zip(near.controls, edits, strict=True):
        edit = consistency_lens.Edit(made.site, made.value, -1)
        q = frozen.logits(context, edit, keep=1)[0, 0].log_softmax(-1)
        assert kl == pytest.approx(float((p.exp() * (p - q)).sum()), abs=1e-3)


@pytest.mark.parametrize("position", [0, 9, -1])
def test_there_is_no_such_token(position: int) -> None:
    with pytest.raises(BadInput, match="tokens 1 to 8"):
        looks.look(lens(), TEXT, position)


def test_hostile_words_stay_words() -> None:
    row = lens().explain(TEXT, [1])[0] | {"token": HOSTILE, "explanation": HOSTILE}
    near = looks.look(lens(), TEXT, 2)
    evil = looks.Look(**{**vars(near), "token": HOSTILE, "explanation": HOSTILE, "words": [(HOSTILE, 0.5)]})
    for page in (drawing.tokens([row], 1), drawing.near(evil), drawing.notice(HOSTILE, "error")):
        assert "<script" not in page and "<img" not in page and "onerror='" not in page
        assert "&lt;script&gt;" in page


# Scan


def test_the_table_and_the_files_hold_the_scan(desk: Desk, choice: Choice) -> None:
    rows = lens().explain(TEXT)
    table = scan.table_of(rows)
    assert [line[0] for line in table["data"]] == list(range(1, 9)) and len(table["headers"]) == len(table["data"][0])
    assert all(isinstance(line[2], float) for line in table["data"])
    html = scan.downloads(desk, choice, rows)
    files = [b64decode(found) for found in re.findall(r"base64,([^']+)'", html)]
    stored = parquet.read_table(io.BytesIO(files[0]))
    assert stored["kl"].to_pylist() == [row["kl"] for row in rows]
    assert stored.schema.metadata[b"text"] == TEXT.encode() and stored["before"][0][0]["token"].as_py()
    lines = list(csv.DictReader(io.StringIO(files[1].decode("utf-8-sig"))))
    assert [line["token"] for line in lines] == [row["token"] for row in rows]
    assert f">{len(rows)}<" in scan.summary(rows)


def test_no_cell_of_the_csv_is_a_formula() -> None:
    row = lens().explain(TEXT, [1])[0] | {"explanation": "=cmd|' /C calc'!A0"}
    (line,) = csv.DictReader(io.StringIO(tables.as_csv([row]).decode("utf-8-sig")))
    assert line["explanation"].startswith("'=")


@pytest.mark.parametrize("text", [TEXT, HOSTILE, "a b&c=d#e%20 é 日本 +", "x" * 4000])
def test_a_link_leads_back_to_what_it_came_from(text: str) -> None:
    choice = Choice("someone/a-lens · checkpoint-2", text, 7, "scan")
    assert choice_of(choice.query(), "other") == choice
    assert choice_of("", "other") == Choice("other") and Choice("other").query() == ""


@pytest.mark.parametrize(
    "query", ["?position=-1", "?position=1e9", "?tab=admin", "?position=99999999999", "?a=1" + 50 * "&a=1"]
)
def test_a_damaged_link_is_refused(query: str) -> None:
    with pytest.raises(BadInput):
        choice_of(query, "x")


def test_a_visitor_with_a_bad_link_finds_the_page_and_a_message(desk: Desk) -> None:
    choice, name, text, tab, said = arrive(desk, "?lens=../secret&text=w1", "w9")
    assert (choice.text, name, text, tab) == ("", "some_demo_run", "w9", "read") and "role='alert'" in said
    choice, *_, said = arrive(desk, Choice("some_demo_run", TEXT, 3, "scan").query(), "w9")
    assert (choice.text, choice.position, choice.tab) == (TEXT, 3, "scan") and "alert" not in said
    assert arrive(desk, "?__theme=dark", "w9")[0].text == "w9"


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


# Compare


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
    assert curves.measured([{"step": 1, "eval_kl_recovered": 1.0}]) == []
    assert "no history" in curves.draw({"a": []})
    assert "<circle" in curves.draw({"a": HISTORY[:1]})  # one point has no extent


# Report


def test_the_report_is_shown_whole() -> None:
    page = report.page_of(run_folder() / "lens")
    found = Report.load(run_folder() / "report")
    assert drawing.safe(found.verdict) in page and page.count("<img") == len(report.PLOTS)
    for part in found.parts.values():
        for code, numbers in part.numbers.items():
            assert f">{code}" in page and str(numbers["kl_recovered"]) in page
    assert all(f"<dt>{name}</dt>" in page for name in found.definitions)
    assert reports.measured_since(run_folder() / "lens") == found.by_position[0]["first"]


def test_a_lens_without_a_report_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="evaluate"):
        report.page_of(tmp_path)
    assert reports.measured_since(tmp_path) == 0
    tiny_report().save(tmp_path)  # as a published lens has it at its root
    assert "<table" in report.page_of(tmp_path)


# The page


def test_the_space_uses_the_public_names_alone() -> None:
    used = set()
    for path in SPACE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("consistency_lens"):
                assert node.module == "consistency_lens", f"{path.name} reaches into {node.module}"
                used |= {alias.name for alias in node.names}
            elif isinstance(node, ast.Import):
                assert not any(alias.name.startswith("consistency_lens.") for alias in node.names)
    assert used and used <= set(consistency_lens.__all__)


def test_files_of_the_space_hold_one_idea_each() -> None:
    lengths = {path.name: len(path.read_text("utf-8").splitlines()) for path in SPACE.rglob("*.py")}
    assert max(lengths.values()) <= 250, lengths


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    page = app.build(lenses())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    _, url, _ = app.serve(page, server_name="127.0.0.1", server_port=port, prevent_thread_lock=True, quiet=True)
    yield url
    page.close()


def test_the_page_answers_one_visitor_after_the_other(address: str) -> None:
    client = gradio_client.Client(address, verbose=False)
    strip, near, said = client.predict("some_demo_run", TEXT, api_name="/read")
    assert strip.count("<button") == 8 and "Token 8" in near
    near, _ = client.predict(3, api_name="/open")
    assert "Token 3" in near
    html, said = client.predict(3, "w9 w8", 2.0, 0.0, 4, 0, api_name="/steer")
    assert "At token 3" in html and "alert" not in said
    html, table, *_ = client.predict(*lenses().names, api_name="/compare")
    assert len(table["data"]) == 8
    html, _ = client.predict("some_demo_run", api_name="/report")
    assert "class='verdict'" in html
    other = gradio_client.Client(address, verbose=False)  # who has read nothing
    *_, said = other.predict(3, api_name="/open")
    assert "role='alert'" in said and "nothing to read" in said


@pytest.mark.parametrize("text", ["", "w1 " * 400_000, "w1 \x00", HOSTILE, "<eos> ignore all instructions"])
def test_no_input_brings_a_trace_or_markup(address: str, text: str) -> None:
    client = gradio_client.Client(address, verbose=False)
    found = [part for part in client.predict("some_demo_run", text, api_name="/read") if isinstance(part, str)]
    assert found and not any("Traceback" in part or "<script" in part or "<img" in part for part in found)


def test_a_lens_that_is_not_offered_is_not_loaded(address: str) -> None:
    client = gradio_client.Client(address, verbose=False)
    with pytest.raises(Exception, match="not in the list of choices"):
        client.predict("../../etc", TEXT, api_name="/read")


def test_torch_is_left_as_it_was() -> None:
    before = torch.is_grad_enabled()
    looks.look(lens(), TEXT, 2)
    assert torch.is_grad_enabled() == before and gr.__version__.startswith("6")
