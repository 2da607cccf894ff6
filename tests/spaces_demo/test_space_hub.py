"""The Space shows a lens from the Hub: its report and samples come along, what could hold code does not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from extracting import saved_model
from family_pages import SOFT, SPARSE, folder_of, lenses_of, subjects
from space_runs import TEXT, lens, run_folder, tiny_report

from consistency_lens import AutoLens, BadInput, Report, view_of

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
from hub_client import HubClient, command
from hub_server import TOKEN, Blob, Hub, Trouble

HARMFUL = ["app.py", "decoder/pytorch_model.bin", "training_args.bin", "last-checkpoint/config.json", "weights.pkl"]


# ---- these functions run in the client's process


def push(name: str) -> None:
    lens().push_to_hub(name)


def shown(name: str) -> tuple[list[str], str, list[str], list[dict[str, Any]]]:
    """Names, the verdict of the report, the files that came, and what the lens says."""
    from lenses import Lenses
    from reports import folder_of

    found = Lenses([name], subject=str(saved_model()))
    folder = found.folders[found.default]
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    assert found.get().explain(TEXT) == lens().explain(TEXT)
    report = folder_of(folder)
    assert report is not None
    return found.names, Report.load(report).verdict, files, found.get().explain(TEXT)


def offered(name: str) -> list[str]:
    from lenses import Lenses

    return Lenses([name]).names


def test_a_lens_from_the_hub_is_shown_with_its_report_and_nothing_that_holds_code(
    online: tuple[Hub, HubClient],
) -> None:
    server, client = online
    client(push, "me/shown-here")
    repo = server.repos["model", "me/shown-here"]
    report = {f"report/{path.name}": path for path in (run_folder() / "report").iterdir()}
    beside = {name: Blob(path.read_bytes(), large=False) for name, path in report.items()}
    beside |= {"history.json": Blob((run_folder() / "history.json").read_bytes(), large=False)}
    harmful = {name: Blob(b"{}", large=False) for name in HARMFUL}
    repo.commit("main", repo.commits[repo.heads["main"]] | beside | harmful, "all else")
    server.served.clear()
    names, verdict, files, rows = client(shown, "me/shown-here")
    assert names == ["me/shown-here"] and verdict == tiny_report().verdict
    assert {"config.json", "model.safetensors", "history.json", "report/report.json"} <= set(files)
    assert sum(name.endswith(".png") for name in files) == 4
    asked = {path.partition("/resolve/")[2].partition("/")[2] for _, path, _ in server.served if "/resolve/" in path}
    assert "model.safetensors" in asked and not {*files, *asked} & set(HARMFUL)
    assert [row["token"] for row in rows] == [row["token"] for row in lens().explain(TEXT)]


def stages(name: str, first: str) -> tuple[list[str], list[list[str]], int]:
    """Names, what each says, and in how many lines Compare sets them side by side."""
    from desk import Desk, Scans
    from lenses import Lenses
    from links import Choice
    from space_runs import last
    from views.compare import comparing

    found = Lenses([name, f"{name}@{first}", f"{name}@main"], subject=str(saved_model()))
    desk = Desk(found, Scans(found), *([None] * 8))  # type: ignore[arg-type]
    _, table, *_ = last(comparing(desk, Choice(name, TEXT), *found.names))
    words = [[row["explanation"] for row in found.get(each).explain(TEXT)] for each in found.names]
    assert [line[4:] for line in table["data"]] == [list(pair) for pair in zip(*words, strict=True)]
    return found.names, words, len(table["data"])


def push_another(name: str) -> None:
    from lens_runs import stirred, tiny_lens

    subject = lens().subject
    assert subject is not None
    stirred(tiny_lens(subject), by=0.5, seed=9).push_to_hub(name)


def test_two_stages_of_a_published_lens_are_compared(online: tuple[Hub, HubClient]) -> None:
    pytest.importorskip("gradio", reason="the Space needs the extra 'space'")
    server, client = online
    client(push, "me/in-stages")
    first = server.repos["model", "me/in-stages"].heads["main"]
    client(push_another, "me/in-stages")
    names, words, lines = client(stages, "me/in-stages", first)
    assert names == ["me/in-stages", f"me/in-stages@{first}"] and words[0] != words[1] and lines == 8


def rows_there(name: str) -> list[dict[str, Any]]:
    """What a page shows of a published lens."""
    from lenses import Lenses

    view = view_of(Lenses([name], subject=subjects()).get())
    return view.rows(TEXT, list(view.positions(TEXT)))


@pytest.mark.parametrize("family", [SPARSE, SOFT])
def test_a_lens_of_any_family_is_published_with_a_page_that_shows_it(
    online: tuple[Hub, HubClient], family: str
) -> None:
    pytest.importorskip("gradio", reason="the Space needs the extra 'space'")
    server, client = online
    repo, run = f"me/{family}", folder_of(family)
    code, said = client(command, ["publish", "--lens", str(run), "--repo_id", repo, "--space", "--use_cpu"])
    assert code == 0, said
    page = server.repos["space", repo]
    files = page.commits[page.heads["main"]]
    assert files["lens.txt"].data == f"{repo}\n".encode() and "app.py" in files
    assert f"consistency_lens/{family.partition('_')[0]}/view.py" in files, "its view comes along"
    lenses = lenses_of(family)
    view = view_of(lenses.get())
    assert client(rows_there, repo) == view.rows(TEXT, list(view.positions(TEXT)))


STARTED: dict[str, Any] = {}  # pages, in the client's process


def start(name: str) -> None:
    from lenses import Lenses

    STARTED[name] = Lenses([name], subject=str(saved_model()))


def report_now(name: str) -> str:
    from reports import latest
    from views.report import page_of

    return page_of(*latest(STARTED[name], name))


def test_the_report_is_the_one_that_is_there_now(online: tuple[Hub, HubClient], tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="the Space needs the extra 'space'")
    server, client = online
    client(push, "me/reported")
    repo = server.repos["model", "me/reported"]
    client(start, "me/reported")
    with pytest.raises(BadInput, match="brings no report along"):
        client(report_now, "me/reported")
    tiny_report().save(tmp_path)
    report = {f"report/{path.name}": Blob(path.read_bytes(), large=False) for path in tmp_path.iterdir()}
    repo.commit("main", repo.commits[repo.heads["main"]] | report, "measured")
    page = client(report_now, "me/reported")
    assert tiny_report().verdict in page and "than the lens that is shown here" in page and page.count("<img") == 4
    server.trouble.append(Trouble("reported", 500, "down"))
    assert tiny_report().verdict in client(report_now, "me/reported"), "what was seen last"
    server.trouble.clear()
    client(start, "me/reported")
    del repo.heads["main"]
    page = client(report_now, "me/reported")
    assert tiny_report().verdict in page and "As it was when this page was started" in page


def test_what_the_hub_says_against_it_is_a_sentence_without_a_token(online: tuple[Hub, HubClient]) -> None:
    server, client = online
    with pytest.raises(BadInput, match="there is no such repository, or it is private"):
        client(offered, "me/was-never-there")
    client(push, "me/in-trouble")
    server.trouble.append(Trouble("in-trouble", 400, "you sent {token}"))
    with pytest.raises(BadInput, match="the Hub says 400") as caught:
        client(offered, "me/in-trouble")
    assert TOKEN not in str(caught.value) and "***" in str(caught.value)


def test_a_folder_stays_where_it_is(tmp_path: Path) -> None:
    run = run_folder()
    assert AutoLens.download(run) == AutoLens.download(str(run / "lens")) == run / "lens"
    with pytest.raises(BadInput, match="has finished training"):
        AutoLens.download(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(BadInput, match="names no frozen model"):
        AutoLens.download(os.fspath(tmp_path))
