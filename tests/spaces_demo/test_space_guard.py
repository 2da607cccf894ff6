"""What the page takes from the network and from the files of a lens: on loopback, as it really runs."""

from __future__ import annotations

import json
import shutil
import socket
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import pytest

pytest.importorskip("gradio")

import httpx
import pyarrow as pa
import pyarrow.parquet as parquet
from extracting import saved_model
from hypothesis import given, settings
from hypothesis import strategies as st
from space_runs import TEXT, lens, lenses, run_folder, tiny_report

from consistency_lens import BadInput

import app  # isort: skip
import guard  # isort: skip
import lenses as places  # isort: skip
import reports  # isort: skip
import texts  # isort: skip
from marking import unmarked  # isort: skip
from views import compare, report  # isort: skip

JOIN = "gradio_api/queue/join"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    page = app.build(lenses())
    _, url, _ = app.serve(page, server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    yield url.rstrip("/")
    page.close()


def asked(data: list[Any], name: str, address: str) -> dict[str, Any]:
    """A request to a function of the page, as a browser sends it."""
    config = httpx.get(f"{address}/config").json()
    number = next(each["id"] for each in config["dependencies"] if each["api_name"] == name)
    return {"data": data, "fn_index": number, "session_hash": uuid.uuid4().hex}


# The network


@pytest.mark.parametrize(
    "path",
    [
        *["upload", "upload/", "upload?upload_id=x", "process_recording", "component_server", "stream/x", "vibe-edit"],
        *["queue/join/../../upload", "run-history/connect", "anything", "call/a/b/c/d"],
    ],
)
def test_no_file_is_taken(address: str, path: str) -> None:
    files = {"files": ("x.bin", b"x" * 1000)}
    answer = httpx.post(f"{address}/gradio_api/{path}", files=files)
    assert answer.status_code == 404 and answer.json() == {"detail": guard.CLOSED}
    assert httpx.put(f"{address}/{JOIN}", content=b"x").status_code == 404
    assert httpx.get(f"{address}/gradio_api/deep_link?session_hash=x").status_code == 404, "it would write one"


def test_what_gradio_writes_goes_after_a_while() -> None:
    page = app.build(lenses())
    assert page.delete_cache == (app.FORGET, app.FORGET) and app.FORGET <= 86400


@pytest.mark.parametrize("size", [guard.MOST_BYTES + 1, 300_000_000, 10**30, -1])
def test_a_large_request_is_refused_before_it_is_read(address: str, size: int) -> None:
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as line:
        line.sendall(f"POST /{JOIN} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {size}\r\n\r\n".encode() + b"x" * 100)
        said = line.recv(4096)
    assert b" 413 " in said or b" 400 " in said  # no number: the server itself refuses it
    assert b" 413 " in said or not 0 < size < 10**20


def test_a_request_that_does_not_say_how_large_it_is_is_cut_off(address: str) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(2 * guard.MOST_BYTES // 65536):
            yield b"x" * 65536

    answer = httpx.post(f"{address}/{JOIN}", content=parts())
    assert answer.status_code == 413 and "Shorten the text" in answer.json()["detail"]
    small = httpx.post(f"{address}/{JOIN}", content=iter([json.dumps(asked(["x", TEXT], "read", address)).encode()]))
    assert small.status_code != 413


def test_what_is_rejected_is_not_logged_whole(address: str, capfd: pytest.CaptureFixture[str]) -> None:
    x = "x" * 50_000
    data: dict[str, list[list[Any]]] = {
        "read": [[x, TEXT], [[x, x], TEXT], [{"a": x}, TEXT], [None, [x]]],
        "compare": [[None, x, x]],
        "report": [[x]],
        "steer": [[None, x, x, x, 0, 0, 0], [None, 1, [x], 1, 0, x, 0]],
        "open": [[None, x]],
    }
    for name, value in ((name, value) for name, values in data.items() for value in values):
        sent = asked(value, name, address)
        assert httpx.post(f"{address}/{JOIN}", json=sent).status_code == 200
        url = f"{address}/gradio_api/queue/data?session_hash={sent['session_hash']}"
        with httpx.stream("GET", url, timeout=60) as events:
            said = "".join(line for line in events.iter_lines())
        assert "process_completed" in said and "x" * 300 not in said
    out, err = capfd.readouterr()
    assert "x" * 300 not in out + err


# Files of a lens


def test_a_name_from_a_lens_is_text_in_markdown(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = lens().subject
    assert subject is not None
    name = "[x](https://example.com) ![y](z) **b** <img src=x> `c` $d$"
    monkeypatch.setattr(subject, "model_id", name)
    shown = [each.value for each in app.build(lenses()).blocks.values() if type(each).__name__ == "Markdown"]
    (head,) = (text for text in shown if "read at" in text)
    assert unmarked(name) in head and name not in head
    assert not set("[]()!*<>`$") & set(unmarked(name)) and unmarked("gpt2") == "gpt2"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of this machine, of the kind that a report has."""
    path = tmp_path / "elsewhere" / "report.json"
    tiny_report().save(path.parent)
    return path


def test_links_that_lead_out_of_a_lens_are_not_followed(tmp_path: Path, secret: Path) -> None:
    run = shutil.copytree(run_folder(), tmp_path / "run")
    assert report.page_of(run / "lens").count("<img") == len(tiny_report().about.pictures)
    for name in ("controls.png", "training.png"):
        (run / "report" / name).unlink()
    (run / "report/controls.png").symlink_to(secret)
    (run / "report/training.png").symlink_to(run / "report/position.png")
    assert report.page_of(run / "lens").count("<img") == len(tiny_report().about.pictures) - 1, (
        "within the run they are"
    )
    shutil.rmtree(run / "report")
    (run / "report").symlink_to(secret.parent)
    assert reports.folder_of(run / "lens") is None
    (run / "history.json").unlink()
    (run / "history.json").symlink_to(secret)
    assert compare.history_of(run) == []
    (run / "samples.parquet").symlink_to(secret)
    assert texts.examples(lens().subject, [run]) == (texts.SENTENCES, "")  # type: ignore[arg-type]


def test_links_of_the_hubs_cache_are_followed(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots/0123"
    tiny_report().save(snapshot / "report")
    blobs.mkdir()
    for path in sorted((snapshot / "report").iterdir()):
        path.rename(blobs / path.name)
        path.symlink_to(blobs / path.name)
    assert report.page_of(snapshot).count("<img") == len(tiny_report().about.pictures)


def test_a_damaged_configuration_is_a_sentence(tmp_path: Path) -> None:
    run = shutil.copytree(run_folder(), tmp_path / "run")
    found = places.Lenses([str(run)], subject=str(saved_model()))
    for content in ("{", "[" * 100_000, "[]", '{"provenance": {"sites": 3}}'):
        (run / "lens/config.json").write_text(content)
        with pytest.raises(BadInput, match=r"config\.json|the lens brings along|damaged") as caught:
            found.get()
        assert "\n" not in str(caught.value)


@cache
def _table() -> bytes:
    rows = pa.table({"context": [f"w1 w{i} ⟦w3⟧" for i in range(200)], "kl": [0.5] * 200, "step": list(range(200))})
    with TemporaryDirectory() as place:
        parquet.write_table(rows, Path(place) / "x.parquet", write_page_checksum=True)
        return (Path(place) / "x.parquet").read_bytes()


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_corrupt_table_of_samples_is_a_sentence(seed: int) -> None:
    random, data = Random(seed), bytearray(_table())
    for _ in range(random.choice([1, 3, 30])):
        data[random.randrange(len(data))] = random.randrange(256)
    with TemporaryDirectory() as place:
        (Path(place) / "samples.parquet").write_bytes(data[: random.choice([len(data), random.randrange(len(data))])])
        found, damage = texts.examples(lens().subject, [Path(place)])  # type: ignore[arg-type]
        assert found and all(isinstance(text, str) for text in found) and "\n" not in damage


@pytest.mark.parametrize("column", [[None, "w1"], [1, 2], [["w1"]], [b"\xff\xfe"]])
def test_contexts_that_are_no_texts_are_a_sentence(column: list[Any], tmp_path: Path) -> None:
    parquet.write_table(pa.table({"context": column}), tmp_path / "samples.parquet")
    assert texts.examples(lens().subject, [tmp_path])[0] == texts.SENTENCES  # type: ignore[arg-type]


def test_a_table_that_says_it_is_endless_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "samples.parquet").write_bytes(_table())
    assert texts.examples(lens().subject, [tmp_path])[1] == ""  # type: ignore[arg-type]
    monkeypatch.setattr(texts, "MOST_ROWS", 100)
    found, damage = texts.examples(lens().subject, [tmp_path])  # type: ignore[arg-type]
    assert found == texts.SENTENCES and "samples.parquet" in damage


def test_the_page_starts_beside_a_corrupt_table(tmp_path: Path) -> None:
    run = shutil.copytree(run_folder(), tmp_path / "run")
    (run / "lens/samples.parquet").write_bytes(_table()[:500])
    page = app.build(places.Lenses([str(run)], subject=str(saved_model())))
    said = [block.value for block in page.blocks.values() if getattr(block, "elem_id", "") == "damage"]
    assert "samples.parquet" in said[0] and "role='alert'" in said[0]
