"""What the page remembers has a bound: of texts, of visitors, and of answers that nobody came to hear."""

from __future__ import annotations

import time
import uuid
from typing import Any

import pytest

pytest.importorskip("gradio", reason="the Space needs the extra 'space'")
import httpx
from space_runs import TEXT, last, lenses

import app  # isort: skip
import desk as desk_room  # isort: skip
import fairness  # isort: skip


def test_texts_are_remembered_by_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_room, "REMEMBERED", 20)
    scans, texts = desk_room.Scans(lenses()), [f"w{i} {TEXT}" for i in range(4)]
    rows = [last(scans.read("some_demo_run", text))[0] for text in texts]
    assert len(rows[0]) == 9 and list(scans._kept) == [("some_demo_run", text) for text in texts[2:]]
    assert last(scans.read("some_demo_run", texts[3]))[0] is rows[3]
    monkeypatch.setattr(desk_room, "REMEMBERED", 5)
    last(scans.read("some_demo_run", texts[0]))
    assert len(scans._kept) == 1, "the last one is there, however long it is"


def test_answers_that_nobody_hears_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fairness, "UNHEARD", 3)
    monkeypatch.setattr(app, "MOST_VISITORS", 5)
    page = app.build(lenses())
    url = str(app.serve(page, server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)[1]).rstrip("/")
    number = next(work._id for work in page.fns.values() if work.api_name == "read")
    queue: Any = page._queue

    def ask() -> str:
        session = uuid.uuid4().hex
        asked = {"data": ["some_demo_run", TEXT], "fn_index": number, "session_hash": session}
        assert httpx.post(f"{url}/gradio_api/queue/join", json=asked).status_code == 200
        end = time.monotonic() + 60
        while len(queue) or any(queue.active_jobs):
            assert time.monotonic() < end, "it hangs"
            time.sleep(0.01)
        return session

    try:
        asked = [ask() for _ in range(9)]
        for kept in (queue.pending_event_ids_session, queue.pending_messages_per_session):
            assert list(kept) == asked[-4:], "of the three before it, and of the last one"
        assert len(page.app.state_holder.session_data) == 5
        data = f"{url}/gradio_api/queue/data?session_hash="
        assert "process_completed" in httpx.get(data + asked[-2]).text, "who comes late finds what was kept"
    finally:
        page.close()


def test_nobody_is_forgotten_who_listens() -> None:
    page = app.build(lenses())
    fair, visitors = fairness.OnePlaceEach(page.app, page), [f"visitor {i}" for i in range(fairness.UNHEARD + 4)]
    page._queue.pending_event_ids_session.update({visitor: set() for visitor in visitors})
    fair.listening.update([visitors[1]])
    fair.forget()
    assert list(page._queue.pending_event_ids_session) == [visitors[1], *visitors[-fairness.UNHEARD :]]
