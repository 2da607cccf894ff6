"""A small server on loopback: it takes a wire and a question, and answers. So two processes exchange a code.

    POST /answer?question=...&receiver=...&task=...     the wire as the body, application/octet-stream
    GET  /                                              which lens it is, and who reads

Answers and errors are JSON; an error is one line. Nothing that arrives is unpickled, and no body is read beyond its
limit.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from threading import Lock
from typing import TYPE_CHECKING, Any

from ...errors import BadInput
from .answering import AnswerSettings, answers, one_text, receiver_named
from .identity import identity_of

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from ..modeling import LatentWire

HOST = "127.0.0.1"
WIRE_TYPE = "application/octet-stream"
_OURS = ["127.0.0.1", "localhost"]  # what a request may call this machine: another name comes from another page


@dataclass(frozen=True)
class Limits:
    """What one request may ask for.

    Args:
        wire: bytes of a body.
        question: characters.
        waiting: requests that are under way at once; one more is answered 503.
    """

    wire: int = 1 << 20
    question: int = 4096
    waiting: int = 16


def require_server() -> None:
    """Raise unless what serves is installed."""
    if missing := [name for name in ("starlette", "uvicorn") if find_spec(name) is None]:
        fix = "Install it: pip install 'consistency-lens[serve]'."
        raise BadInput("serve", missing[0], fix, why="it is not installed")


def application(lens: LatentWire, settings: AnswerSettings, limits: Limits | None = None) -> Starlette:
    """The server as an ASGI application.

    Args:
        lens: with the models that may be asked.
        settings: of the decoding; a request may ask for fewer tokens.
        limits: of a request.
    """
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    assert lens.models is not None
    limits, names, in_turn = limits or Limits(), list(lens.models), Lock()
    about = {"lens": identity_of(lens.compressor), "receivers": names, "vectors_of": lens.config.d_z}

    def answered(query: Mapping[str, str], body: bytes) -> dict[str, Any]:
        question, wanted = query.get("question", ""), _tokens(query, settings)
        if not 0 < len(question) <= limits.question:
            fix = f"Ask something of at most {limits.question} characters."
            raise BadInput("question", f"{len(question)} characters", fix)
        receiver = receiver_named(names, query.get("receiver"))
        wires = one_text(body)
        with in_turn:  # a model takes one step at a time
            (text,) = answers(lens, [wires], [question], receiver, query.get("task", "answer"), wanted)
        return {"answer": text, "receiver": receiver, "vectors": sum(wire.M for wire in wires), "bytes": len(body)}

    async def answer(request: Request) -> Response:
        if request.headers.get("content-type", "").split(";")[0].strip() != WIRE_TYPE:
            return _refusal(415, f"Send the wire itself, as {WIRE_TYPE}.")
        body = bytearray()
        async for chunk in request.stream():
            if len(body) + len(chunk) > limits.wire:
                return _refusal(413, f"A wire may have {limits.wire} bytes here.")
            body += chunk
        try:
            return JSONResponse(await run_in_threadpool(answered, request.query_params, bytes(body)))
        except BadInput as error:
            return _refusal(400, str(error))

    async def shown(request: Request) -> Response:
        return JSONResponse(about)

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _refusal(error.status_code, error.detail)

    def _refusal(status: int, why: str) -> Response:
        return JSONResponse({"error": " ".join(why.split())}, status)

    return Starlette(
        routes=[Route("/", shown), Route("/answer", answer, methods=["POST"])],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=_OURS)],
        exception_handlers={HTTPException: refused},
    )


def run(lens: LatentWire, settings: AnswerSettings, limits: Limits, port: int, say: Callable[[str], None]) -> None:
    """Serve until the process is interrupted.

    Args:
        lens: with the models that may be asked.
        settings: of the decoding.
        limits: of a request.
        port: of this machine; 0 for any free one.
        say: is told the address, once requests can be answered.
    """
    import uvicorn

    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, port))
        except OSError as error:
            raise BadInput("port", port, "Take another one, or 0 for any.", why=str(error)) from error
        listening.listen()
        assert lens.models is not None
        address = f"http://{HOST}:{listening.getsockname()[1]}"
        say(f"{', '.join(lens.models)} answer{'s' if len(lens.models) == 1 else ''} at {address}")
        server = uvicorn.Server(
            uvicorn.Config(application(lens, settings, limits), log_level="warning", limit_concurrency=limits.waiting)
        )
        server.run(sockets=[listening])


def _tokens(query: Mapping[str, str], settings: AnswerSettings) -> AnswerSettings:
    """The settings with as many tokens as a request asks for, if that is not more than they allow."""
    given = query.get("max_new_tokens")
    if given is None:
        return settings
    allowed = settings.max_new_tokens
    if not given.isascii() or not given.isdigit() or len(given) > 9 or not 1 <= int(given) <= allowed:
        raise BadInput("max_new_tokens", given, f"Use 1 to {allowed}.")
    return settings.of_length(int(given))
