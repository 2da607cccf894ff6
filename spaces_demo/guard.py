"""What the page takes from the network: the few requests that it makes itself, none of them large, and no files."""

from __future__ import annotations

import re

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BYTES = 1 << 18  # of a request: the longest text there may be, however it is written, many times over
TOO_LARGE = f"A request may have {MOST_BYTES >> 10} kB. Shorten the text."
CLOSED = "This page takes no files, and nothing else but what it asks for itself."
# What the page and clients of its API send; `run` and `api` are there to be told to wait in line.
_TAKEN = re.compile(r"(?:^|/)gradio_api/(?:queue/join|call/[^/]+(?:/[^/]+)?|cancel|reset|run/[^/]+|api/[^/]+)/?$")
_WRITES = re.compile(r"(?:^|/)gradio_api/deep_link/?$")  # a file for each request, though it only asks


class Guard:
    """Refuses a request that is too large, or to what the page does not need, before Gradio reads any of it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        reads = scope["method"] in ("GET", "HEAD", "OPTIONS") and not _WRITES.search(scope["path"])
        if not reads and not (scope["method"] == "POST" and _TAKEN.search(scope["path"])):
            await JSONResponse({"detail": CLOSED}, 404)(scope, receive, send)
            return
        body = await _body(scope, receive)
        if body is None:
            await JSONResponse({"detail": TOO_LARGE}, 413, {"connection": "close"})(scope, receive, send)
            return
        await self.app(scope, _given(body, receive), send)


async def _body(scope: Scope, receive: Receive) -> bytes | None:
    """All of a request; None where it is too large, of which no more is read."""
    announced = dict(scope["headers"]).get(b"content-length", b"0")
    if not announced.isdigit() or len(announced) > 9 or int(announced) > MOST_BYTES:
        return None
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] != "http.request":  # gone again
            break
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MOST_BYTES:
            return None
    return body


def _given(body: bytes, receive: Receive) -> Receive:
    """Receives what was read already, then what comes after it."""
    kept: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return kept.pop() if kept else await receive()

    return again
