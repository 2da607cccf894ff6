"""Uploads that fail: what is taken up again, what is said when it cannot be, and that no token is in it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from consistency_lens import BadInput, hub

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
from hub_client import HubClient
from hub_server import PART, READ_TOKEN, TOKEN, Blob, Hub, Trouble
from test_hub import files, lens_of, pull


def upload_two(name: str, folder: str, token: str | None = None) -> str:
    return hub.upload(Path(folder), hub.create(name, token), "two files", token)


@pytest.fixture
def two_files(tmp_path: Path) -> str:
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors").write_bytes(name.encode() * 5000)
    (tmp_path / "note.txt").write_text("small")
    return str(tmp_path)


def sent(server: Hub, since: int) -> list[str]:
    return [path for method, path, status in server.served[since:] if method == "PUT" and status == 200]


def test_a_dropped_connection_is_taken_up_again(online: tuple[Hub, HubClient], two_files: str) -> None:
    server, client = online
    server.trouble.append(Trouble("PUT /_large", 0, times=1))
    client(upload_two, "me/dropped", two_files)
    assert set(files(server, "me/dropped")) == {"a.safetensors", "b.safetensors", "note.txt"}
    assert files(server, "me/dropped")["b.safetensors"].data == b"b" * 5000 and not server.trouble[0].times


def test_of_a_file_in_parts_a_part_that_was_dropped_is_sent_again(
    online: tuple[Hub, HubClient], tmp_path: Path
) -> None:
    server, client = online
    data = b"".join(bytes([i]) * PART for i in (1, 2)) + b"the rest"
    (tmp_path / "large.safetensors").write_bytes(data)
    server.trouble.append(Trouble("PUT /_parts/[^/]+/2", 0, times=1))
    began = len(server.served)
    client(upload_two, "me/parts-of-a-file", str(tmp_path))
    assert files(server, "me/parts-of-a-file")["large.safetensors"].data == data and not server.trouble[0].times
    tried = [path.rpartition("/")[2] for method, path, _ in server.served[began:] if "/_parts/" in path]
    assert tried == ["1", "2", "2", "3"]


def test_what_has_arrived_is_not_sent_again(online: tuple[Hub, HubClient], two_files: str) -> None:
    server, client = online
    blob = Blob(b"a" * 5000, large=True)
    server.large.pop(blob.oid, None), server.large.pop(Blob(b"b" * 5000, large=True).oid, None)
    server.trouble.append(Trouble(f"PUT /_large/(?!{blob.oid})", 403, "signature expired"))
    began = len(server.served)
    with pytest.raises(BadInput, match="repo_id='me/resumed': the Hub says 403"):
        client(upload_two, "me/resumed", two_files)
    assert sent(server, began) == [f"/_large/{blob.oid}"] and "note.txt" not in files(server, "me/resumed")
    server.trouble.clear()
    began = len(server.served)
    client(upload_two, "me/resumed", two_files)
    assert len(sent(server, began)) == 1 and blob.oid not in sent(server, began)[0]
    assert len(files(server, "me/resumed")) == 3


CASES = [
    ("POST /api/repos/create", 401, "Invalid token", "The token is not valid (any more): make one with write access"),
    ("POST /api/repos/create", 403, "no rights", "Use a token with write access to me, or a repository of your own."),
    ("POST /api/repos/create", 402, "payment required", "me has no room left"),
    ("commit/main", 403, "Private repository storage limit reached", "me has no room left: delete what is not needed"),
    ("commit/main", 413, "Payload too large", "Upload less at once"),
    (
        "commit/main",
        412,
        "A commit has happened since",
        "Somebody else changed it in the meantime. Run the same again",
    ),
    ("PUT /_large", 507, "Insufficient storage", "me has no room left"),
    ("preupload", 400, "bad file name", "Mend what it names."),
    ("POST /api/repos/create", 429, "slow down", "Wait a few minutes. Run the same again"),
    ("POST /api/repos/create", 503, "maintenance", "The Hub has trouble; wait a while. Run the same again"),
]


@pytest.mark.parametrize(("what", "status", "message", "fix"), CASES)
def test_what_the_hub_refuses_says_what_to_do(
    online: tuple[Hub, HubClient], two_files: str, what: str, status: int, message: str, fix: str
) -> None:
    server, client = online
    server.large.clear()
    server.trouble.append(Trouble(what, status, f"{message} (of {{token}})"))
    with pytest.raises(BadInput) as caught:
        client(upload_two, f"me/refused-{status}", two_files)
    said = str(caught.value)
    assert fix in said and f"the Hub says {status}" in said and "repo_id='me/refused" in said
    assert message in said and TOKEN not in said, "what the server sent back is shown, the token not"
    assert "***" in said or "_large" in what  # storage is sent no token


@pytest.mark.parametrize(
    ("error", "fix"),
    [
        (OSError(28, "No space left on device", "/cache/blob"), "Make room on this machine's disk."),
        (PermissionError(13, "Permission denied", "/cache/blob"), "Mend what it names."),
    ],
)
def test_trouble_with_the_disk_is_not_blamed_on_the_hub(error: OSError, fix: str) -> None:
    with pytest.raises(BadInput) as caught, hub.plainly("lens", "me/lens"):
        try:
            raise error
        except OSError as cause:
            raise RuntimeError("the download ended early") from cause
    assert fix in str(caught.value) and str(error.strerror) in str(caught.value)


def test_a_repository_of_somebody_else(online: tuple[Hub, HubClient], two_files: str) -> None:
    _, client = online
    with pytest.raises(BadInput, match="Use a token with write access to you, or a repository of your own"):
        client(upload_two, "you/lens", two_files)
    with pytest.raises(BadInput, match="Use a token with write access to me"):
        client(upload_two, "me/reading", two_files, READ_TOKEN)


def test_an_id_that_is_none(online: tuple[Hub, HubClient]) -> None:
    _, client = online
    with pytest.raises(BadInput, match="write an id as in owner/name"):
        client(pull, "me/a/b", True)
    with pytest.raises(BadInput, match=r"lens='me/nothing': there is no such repository, or it is private"):
        client(pull, "me/nothing", True)


def test_without_a_token_nothing_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    lens = lens_of("projections")
    with pytest.raises(BadInput, match="hub_token=None: the Hub takes nothing without a token"):
        lens.push_to_hub("me/lens")


# ---- tokens


def test_tokens_are_taken_out_of_any_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_this_machine")
    shaped = "hf_" + "aB3" * 11
    text = f"a given-one, hf_of_this_machine, {shaped}; me:{shaped}@huggingface.co; Authorization: Bearer xyz.abc"
    clean = hub.redacted(text, "given-one", None)
    assert clean == "a ***, ***, ***; me:***@huggingface.co; Authorization: Bearer ***"
    assert hub.redacted("hf_hub_download(repo)") == "hf_hub_download(repo)"


def upload_watched(name: str, folder: str, token: str) -> tuple[str, str, str]:
    """The error, all that is logged down to the last detail, and the trace as it would be printed."""
    import io
    import traceback

    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logging.getLogger().addHandler(handler)
    logging.getLogger("huggingface_hub").addHandler(handler)
    try:
        upload_two(name, folder, token)
    except BadInput as error:
        return str(error), stream.getvalue(), "".join(traceback.format_exception(error))
    finally:
        logging.getLogger().removeHandler(handler)
        logging.getLogger("huggingface_hub").removeHandler(handler)
    return "", stream.getvalue(), ""


@pytest.mark.parametrize(("what", "status"), [("create", 401), ("commit/main", 400), ("create", 500)])
def test_a_token_that_the_server_sends_back_is_shown_nowhere(
    online: tuple[Hub, HubClient], two_files: str, what: str, status: int
) -> None:
    server, client = online
    server.trouble.append(Trouble(what, status, "you sent Bearer {token} to us: {token}"))
    for text in client(upload_watched, "me/echo", two_files, TOKEN):
        assert TOKEN not in text
    assert "***" in client(upload_watched, "me/echo", two_files, TOKEN)[0]
