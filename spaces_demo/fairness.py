"""Nobody fills the line in which all wait, nor the memory: who has enough waiting is told so, and is not let in once
more; what nobody came to hear is forgotten."""

from __future__ import annotations

import os
from collections import Counter
from ipaddress import ip_address
from typing import Any
from urllib.parse import parse_qs

import gradio as gr
from guard import Guard
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

MOST_WAITING = 100  # of everybody
MOST_EACH = 8  # waiting, of one address
ENOUGH = f"You have {MOST_EACH} requests waiting already. Wait for one of them, or stop it."
UNHEARD = 32  # visitors whose answers are kept though none of them listens
HERE = ("127.0.0.1", "::1")
_ASKS = ("/queue/join", "/call/")


def visitor_of(scope: Scope) -> str | None:
    """The address of whoever asks; None for this machine itself, which may ask as it likes.

    On the Hub the page stands behind proxies, each of which adds the address that asked it behind those that are named
    already. So the last public one was seen by a proxy; what stands before it anybody can have written, and private
    ones behind it are proxies' own. Elsewhere no such name is believed.
    """
    if "SPACE_ID" in os.environ:
        named = b",".join(value for name, value in scope["headers"] if name == b"x-forwarded-for").decode("latin-1")
        if seen := [address.strip() for address in named.split(",") if address.strip()]:
            return next(filter(_is_public, reversed(seen)), seen[-1])
    host = (scope["client"] or ("",))[0]
    return None if host in HERE else host


def _is_public(address: str) -> bool:
    try:
        return ip_address(address).is_global
    except ValueError:
        return False


class OnePlaceEach:
    """Refuses a request that would wait, where its visitor has `MOST_EACH` waiting."""

    def __init__(self, app: ASGIApp, page: gr.Blocks) -> None:
        self.app, self.page = app, page
        self.listening: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asks = scope["type"] == "http" and scope["method"] == "POST" and any(part in scope["path"] for part in _ASKS)
        visitor = visitor_of(scope) if asks else None
        if visitor is not None and self.waiting(visitor) >= MOST_EACH:
            await JSONResponse({"detail": ENOUGH}, 429)(scope, receive, send)
            return
        if asks:
            self.forget()
        heard = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("session_hash", [])[:1]
        self.listening.update(heard)
        try:
            await self.app(scope, receive, send)
        finally:
            self.listening -= Counter(heard)

    def forget(self) -> None:
        """Let go of what waits for visitors who do not listen. Gradio keeps that of 2,000, however large it is, and
        for good the names of what each has asked."""
        queue = self.page._queue
        lines = queue.event_queue_per_concurrency_id.values()
        batches = [*(job for job in queue.active_jobs if job), *(line.queue for line in lines)]
        busy = {event.session_hash for batch in batches for event in batch} | self.listening.keys()
        idle = [session for session in queue.pending_event_ids_session if session not in busy]
        for session in idle[:-UNHEARD]:
            queue.pending_event_ids_session.pop(session)
            queue.pending_messages_per_session.pop(session, None)

    def waiting(self, visitor: str) -> int:
        """How many of his are in line; what is being computed is not."""
        lines = self.page._queue.event_queue_per_concurrency_id.values()
        return sum(visitor_of(event.request.scope) == visitor for line in lines for event in line.queue)


def fair(page: gr.Blocks) -> dict[str, Any]:
    """Settings of the server under the page."""
    return {"middleware": [Middleware(Guard), Middleware(OnePlaceEach, page=page)]}
