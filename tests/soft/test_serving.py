"""The server: what it answers, and that whatever else arrives costs it one line."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any
from urllib.parse import urlencode

import pytest
from wire_runs import wire_lens

from consistency_lens.errors import BadInput
from consistency_lens.soft.serving.answering import AnswerSettings
from consistency_lens.soft.serving.server import Limits, application, run

pytest.importorskip("starlette")
TEXT = "w1 w2 w3 w4 w5 w6"
WIRE = {"content-type": "application/octet-stream"}


def ask(
    body: bytes | list[bytes] = b"",
    path: str = "/answer",
    method: str = "POST",
    headers: dict[str, str] | None = None,
    lens: Any = None,
    **query: str,
) -> tuple[int, dict[str, Any], int]:
    """Status, what was said, and how many pieces of the body were read, of one request without a network."""
    app = application(lens or wire_lens(ratio=2.0), AnswerSettings(max_new_tokens=4), Limits(wire=2000, question=40))
    pieces = list(body) if isinstance(body, list) else [body]
    given = {"host": "127.0.0.1:1"} | (WIRE if headers is None else headers)
    scope = {
        "type": "http", "method": method, "path": path, "query_string": urlencode(query).encode(),
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
    }  # fmt: skip
    read, sent = 0, []

    async def receive() -> dict[str, Any]:
        nonlocal read
        read += 1
        return {"type": "http.request", "body": pieces[read - 1], "more_body": read < len(pieces)}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    said = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], json.loads(said) if said.startswith(b"{") else {"text": said.decode()}, read


def test_it_answers_as_the_lens_does() -> None:
    lens = wire_lens(ratio=2.0)
    data = lens.to_bytes(TEXT)
    status, said, _ = ask([data[:10], data[10:]], lens=lens, question="w90", receiver="turned")
    expected = lens.answer(data, "w90", "turned", max_new_tokens=4)
    assert (status, said) == (200, {"answer": expected, "receiver": "turned", "vectors": 3, "bytes": len(data)})
    status, said, _ = ask(data, lens=lens, question="w90", receiver="turned", max_new_tokens="1")
    assert said["answer"] == lens.answer(data, "w90", "turned", max_new_tokens=1)
    status, said, _ = ask(path="/", method="GET", lens=lens)
    assert status == 200 and said["receivers"] == ["words", "turned"] and len(said["lens"]) == 16


GOOD: dict[str, Any] = {"question": "w90", "receiver": "words"}


@pytest.mark.parametrize(
    ("request_of", "status", "said"),
    [
        ({"question": ""}, 400, "question="),
        ({"question": "w" * 41}, 400, "at most 40 characters"),
        ({"receiver": "nobody"}, 400, "receiver='nobody'.*Name one of words, turned"),
        ({"task": "song"}, 400, "task='song'"),
        ({"max_new_tokens": "5"}, 400, "max_new_tokens='5'. Use 1 to 4"),
        ({"max_new_tokens": "9" * 5000}, 400, "max_new_tokens="),
        ({"max_new_tokens": "²"}, 400, "max_new_tokens="),
        ({"body": b""}, 400, "0 bytes"),
        ({"body": b"\x80\x04\x95 a pickle"}, 400, "not those of a wire"),
        ({"body": b"LWIR" + bytes(40)}, 400, "version 0"),
        ({"headers": {"content-type": "application/x-www-form-urlencoded"}}, 415, "application/octet-stream"),
        ({"headers": {}}, 415, "application/octet-stream"),
        ({"headers": WIRE | {"host": "evil.example.com"}}, 400, "host"),
        ({"path": "/nothing"}, 404, "Not Found"),
        ({"method": "GET"}, 405, "Method Not Allowed"),
    ],
)  # fmt: skip
def test_what_it_does_not_take_is_one_line(request_of: dict[str, Any], status: int, said: str) -> None:
    lens = wire_lens(ratio=2.0)
    given = {"body": lens.to_bytes(TEXT)} | GOOD | request_of
    found, answer, _ = ask(lens=lens, **given)
    assert found == status
    (words,) = answer.values()
    with pytest.raises(BadInput, match=said):
        raise BadInput("said", "", words)
    assert "\n" not in words and "Traceback" not in words


def test_a_body_is_read_no_further_than_its_limit() -> None:
    status, said, read = ask([bytes(900)] * 50, **GOOD)
    assert status == 413 and said == {"error": "A wire may have 2000 bytes here."} and read == 3


def test_a_wire_that_is_longer_than_the_models_context_is_refused() -> None:
    lens = wire_lens(ratio=1.0, d_z=8)
    data = lens.to_bytes(" ".join(["w1"] * 126), window=63, bits=4)
    status, said, _ = ask(data, lens=lens, **GOOD)
    assert status == 400 and "128" in said["error"]


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BadInput, match=f"port={port}"):
            run(wire_lens(ratio=2.0), AnswerSettings(), Limits(), port, print)
