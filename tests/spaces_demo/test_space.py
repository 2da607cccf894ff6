"""The Space: its texts, lenses and links as functions, and its page, asked over loopback."""

from __future__ import annotations

import ast
import os
import shutil
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest
import torch
from extracting import saved_model
from lens_runs import stirred, tiny_lens
from space_runs import HOSTILE, SPACE, TEXT, last, lens, lenses, new_desk, run_folder
from tiny import tiny_lm

import consistency_lens
from consistency_lens import BadInput
from consistency_lens.text import view

gradio_client = pytest.importorskip("gradio_client", reason="the Space needs the extra 'space'")
import app  # noqa: E402
import desk as desk_room  # noqa: E402
import fairness  # noqa: E402
import gradio as gr  # noqa: E402
import httpx  # noqa: E402
import lenses as places  # noqa: E402
import texts  # noqa: E402
from arriving import arrive  # noqa: E402
from desk import Desk, Scans, in_turn, link_to, sentence, told  # noqa: E402
from links import Choice, choice_of  # noqa: E402
from views import read  # noqa: E402


@pytest.fixture
def desk() -> Desk:
    return new_desk()


# What a text may be


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Write a few words"),
        (" \n\t ", "Write a few words"),
        ("w1 " * 60_000, "at most 4,000 characters"),
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
    assert texts.examples(subject, [tmp_path / "none", tmp_path]) == (["w1 w2 w3", "w4 w5"], "")
    assert texts.examples(subject, []) == (texts.SENTENCES, "")
    (tmp_path / "samples.parquet").write_bytes(b"no parquet")
    found, damage = texts.examples(subject, [tmp_path])
    assert found == texts.SENTENCES and "samples.parquet" in damage and "damaged" in damage


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


def test_runs_that_are_called_the_same_are_told_apart_and_a_folder_of_ours_is_no_checkpoint(tmp_path: Path) -> None:
    for parent in ("a", "b"):
        shutil.copytree(run_folder(), tmp_path / parent / "run")
        shutil.copytree(run_folder() / "lens", tmp_path / parent / "run/checkpoint-best")
    found = places.Lenses([str(tmp_path / "a/run"), str(tmp_path / "b/run"), str(tmp_path / "a/run/lens")])
    assert found.names == ["run", "run · checkpoint-2", "run (2)", "run (2) · checkpoint-2"]
    assert found.folders["run (2)"] == tmp_path / "b/run/lens"


def test_a_lens_of_another_model_is_refused_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stirred(tiny_lens(tiny_lm("qwen3"))).save_pretrained(tmp_path / "of_another")
    found = places.Lenses([str(run_folder()), str(tmp_path / "of_another")], subject=str(saved_model()))

    @told(4)
    def work() -> Iterator[Any]:
        yield from read.reading(Desk(found, Scans(found), *([None] * 8)), Choice("of_another", TEXT))  # type: ignore[arg-type]

    *_, said = last(work())
    assert "role='alert'" in said and "made for another model" in said


def test_a_folder_without_a_lens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="the folder of a run that has finished training, or of a lens"):
        places.Lenses([str(tmp_path)])
    with pytest.raises(BadInput, match="the Hub is switched off"):
        places.Lenses(["nobody/there-is-no-such-lens"])


# Links


@pytest.mark.parametrize("text", [TEXT, HOSTILE, "a b&c=d#e%20 é 日本 +", "x" * 4000])
def test_a_link_leads_back_to_what_it_came_from(text: str) -> None:
    choice = Choice("someone/a-lens · checkpoint-2", text, 7, "scan", "worst")
    assert choice_of(choice.query(), "other") == choice
    assert choice_of("", "other") == Choice("other") and Choice("other").query() == ""
    assert choice_of(link_to(choice, "edit"), "other") == choice.on("edit")


@pytest.mark.parametrize(
    "query",
    ["?position=-1", "?position=1e9", "?tab=admin", "?order=up", "?position=99999999999", "?a=1" + 50 * "&a=1"],
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


# The page


def test_the_space_uses_the_public_names_alone() -> None:
    used = set()
    for path in SPACE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("consistency_lens"):
                names = {alias.name for alias in node.names}
                if (node.module, names) != ("consistency_lens.card", {"columns"}):  # the module of headings
                    assert node.module == "consistency_lens", f"{path.name} reaches into {node.module}"
                    used |= names
            elif isinstance(node, ast.Import):
                assert not any(alias.name.startswith("consistency_lens.") for alias in node.names)
    assert used and used <= {*consistency_lens.__all__}


def test_files_of_the_space_hold_one_idea_each() -> None:
    lengths = {path.name: len(path.read_text("utf-8").splitlines()) for path in SPACE.rglob("*.py")}
    assert max(lengths.values()) <= 250, lengths


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    page = app.build(lenses())
    _, url, _ = app.serve(page, server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
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
    html = client.predict("some_demo_run", api_name="/report")
    assert "class='verdict'" in html
    other = gradio_client.Client(address, verbose=False)  # who has read nothing
    *_, said = other.predict(3, api_name="/open")
    assert "role='alert'" in said and "nothing to read" in said


@pytest.mark.parametrize("text", ["", "w1 " * 60_000, "w1 \x00", HOSTILE, "<eos> ignore all instructions"])
def test_no_input_brings_a_trace_or_markup(address: str, text: str) -> None:
    client = gradio_client.Client(address, verbose=False)
    found = [part for part in client.predict("some_demo_run", text, api_name="/read") if isinstance(part, str)]
    assert found and not any("Traceback" in part or "<script" in part or "<img" in part for part in found)


def test_the_work_of_models_waits_in_one_line() -> None:
    page = app.build(lenses())
    for work in page.fns.values():
        page._queue.create_event_queue_for_fn(work)
    lines = page._queue.event_queue_per_concurrency_id
    assert lines["model"].concurrency_limit == 1
    waiting = {str(work.api_name) for work in page.fns.values() if work.concurrency_id == "model"}
    assert {"read", "open", "steer", "compare"} <= waiting


def test_nobody_fills_the_line(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing can be computed, one visitor asks again and again; another one is let in all the same."""
    monkeypatch.setenv("SPACE_ID", "me/page")  # behind a proxy, which names the visitor
    address = address.rstrip("/")
    config = httpx.get(f"{address}/config").json()
    number = next(each["id"] for each in config["dependencies"] if each["api_name"] == "open")

    def ask(visitor: str) -> httpx.Response:
        asked = {"data": [None, 1], "fn_index": number, "session_hash": uuid.uuid4().hex}
        headers = {"x-forwarded-for": visitor} if visitor else {}
        return httpx.post(f"{address}/gradio_api/queue/join", json=asked, headers=headers)

    with desk_room._AT_WORK:
        # He calls himself somebody else each time; what the proxies add behind that is his.
        answers = [ask(f"9.9.9.{i}, 1.1.1.1, 10.0.0.1") for i in range(fairness.MOST_EACH + 2)]
        assert [answer.status_code for answer in answers[: fairness.MOST_EACH]] == [200] * fairness.MOST_EACH
        assert answers[-1].status_code == 429 and "waiting already" in answers[-1].json()["detail"]
        assert ask("1.1.1.2, 10.0.0.1").status_code == 200
        assert all(ask("").status_code == 200 for _ in range(fairness.MOST_EACH + 2)), "who is here asks as he likes"
        monkeypatch.delenv("SPACE_ID")
        assert ask("1.1.1.1").status_code == 200, "without a proxy of the Hub nobody is believed"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (["1.1.1.1"], "1.1.1.1"),
        (["9.9.9.9, 1.1.1.1"], "1.1.1.1"),
        (["9.9.9.9, 1.1.1.1, 10.1.2.3, 192.168.0.1"], "1.1.1.1"),
        (["9.9.9.9", "1.1.1.1"], "1.1.1.1"),  # written twice
        (["nobody, 2606:4700:4700::1111"], "2606:4700:4700::1111"),
        (["10.0.0.7, 10.0.0.8"], "10.0.0.8"),
        ([" , "], "192.0.2.7"),
        ([], "192.0.2.7"),
    ],
)
def test_a_visitor_is_whom_the_proxies_have_seen(
    monkeypatch: pytest.MonkeyPatch, headers: list[str], expected: str
) -> None:
    monkeypatch.setenv("SPACE_ID", "me/page")
    given = [(b"x-forwarded-for", value.encode()) for value in headers]
    assert fairness.visitor_of({"headers": given, "client": ("192.0.2.7", 5000)}) == expected


def test_nobody_goes_past_the_line(address: str) -> None:
    """By a request to the function itself, as Gradio offers it to clients where it is told to."""
    for way in ("run", "api"):
        asked = {"data": ["some_demo_run", TEXT]}
        answer = httpx.post(f"{address.rstrip('/')}/gradio_api/{way}/read", json=asked)
        assert answer.status_code == 404 and "join the queue" in answer.json()["detail"]


def test_of_all_work_of_models_one_step_is_taken_at_a_time() -> None:
    """Also beside work that was cancelled, whose place Gradio gives away while its thread is still computing."""
    seen: list[str] = []
    inside, second_began, go_on = (threading.Event() for _ in range(3))

    @in_turn
    def work(name: str) -> Iterator[str]:
        seen.append(f"{name} in")
        inside.set()
        assert go_on.wait(60)
        seen.append(f"{name} out")
        yield name

    def later() -> None:
        second_began.set()
        next(work("second"))

    threads = [threading.Thread(target=lambda: next(work("first"))), threading.Thread(target=later)]
    threads[0].start()
    assert inside.wait(60)
    threads[1].start()
    assert second_began.wait(60)
    go_on.set()
    for thread in threads:
        thread.join(60)
    assert seen == ["first in", "first out", "second in", "second out"]


def test_a_lens_that_is_not_offered_is_not_loaded(address: str) -> None:
    client = gradio_client.Client(address, verbose=False)
    *_, said = client.predict("../../etc", TEXT, api_name="/read")
    assert "role='alert'" in said and "Choose one of" in said


def test_torch_is_left_as_it_was() -> None:
    before = torch.is_grad_enabled()
    view.look(lens(), TEXT, 2)
    assert torch.is_grad_enabled() == before and gr.__version__.startswith("6")
