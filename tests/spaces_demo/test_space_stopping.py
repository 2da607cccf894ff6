"""Stop, in a headless browser: what it says is true at once, and the click after it is not lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from space_runs import TEXT, lenses

pytest.importorskip("gradio", reason="the Space needs the extra 'space'")
pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright")
import app
import desk
import looks
from space_server import Visitor, browsing

from consistency_lens import ConsistencyLens

pytestmark = pytest.mark.browser
STOPPED, STOPPING = (
    f"document.querySelector('#notice').innerText.includes('{said}')" for said in ("Stopped", "Stopping")
)
LONG = " ".join(f"w{i}" for i in range(89, 0, -1))


class Gate:
    """Work stops before it until it is opened."""

    def __init__(self) -> None:
        self.reached, self.open = threading.Event(), threading.Event()

    def pass_through(self) -> None:
        self.reached.set()
        assert self.open.wait(120)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing() as found:
        yield found


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.open.set()


@pytest.fixture
def visitor(browser: Any, gate: Gate) -> Iterator[Visitor]:
    """Of a page in this process, so that a test can say how far the work comes; `TEXT` has been read."""
    page = app.build(lenses())
    _, url, _ = app.serve(page, server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    try:
        found = Visitor(browser, url.rstrip("/"), query="?text=" + TEXT.replace(" ", "+")).has_read(8)
        found.until("location.search.includes('position=8')")
        yield found
        found.leave()
    finally:
        gate.open.set()
        page.close()


def stopped(visitor: Visitor, gate: Gate, button: str) -> None:
    """Stop what waits at the gate: that it has stopped is said once it has."""
    assert gate.reached.wait(60)
    visitor.until("document.querySelector('#notice .busy') != null")
    visitor.page.locator(button).click()
    visitor.until(STOPPING)
    assert not visitor.page.evaluate(STOPPED)
    gate.open.set()
    visitor.until(STOPPED)


def held(gate: Gate, work: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
    """A generator that stops at the gate before its second value."""

    def waiting(*given: Any) -> Iterator[Any]:
        steps = work(*given)
        yield next(steps)
        gate.pass_through()
        yield from steps

    return waiting


def test_a_click_right_after_a_reading_was_stopped_is_heard(
    visitor: Visitor, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk, "scan", held(gate, desk.scan))
    visitor.page.locator("#text textarea").fill(LONG)
    visitor.page.locator("#act").click()
    stopped(visitor, gate, "#stop")
    visitor.until(
        f"document.querySelectorAll('.token').length == {looks.CHUNK} && !document.querySelector('#near h3')"
    )
    visitor.until("new URLSearchParams(location.search).get('text').startsWith('w89 w88')")
    visitor.page.locator(".token").nth(6).click()
    visitor.near(7)
    assert visitor.page.locator("#near h3 q").inner_text() == "w83"
    visitor.turn_to("Scan")
    visitor.until("document.querySelector('#scan')?.innerText.includes('w83')")
    visitor.turn_to("Read")
    visitor.page.locator("#text textarea").fill("w8 w7 w6 w5 w4 w3 w2")
    visitor.page.locator("#act").click()
    visitor.has_read(7)
    visitor.page.locator("#stop").click()  # there is nothing to stop, and nothing is said
    visitor.page.locator("#text textarea").fill("w8 w7 w6 w5 w4 w3")
    visitor.page.locator("#act").click()
    visitor.has_read(6)


def test_a_comparison_can_be_stopped_and_made_again(
    visitor: Visitor, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk, "scan", held(gate, desk.scan))
    visitor.turn_to("Compare")
    visitor.page.locator("#compare").click()  # the first lens has read the text already
    stopped(visitor, gate, "#compare-stop")
    assert visitor.page.locator("#compared dl").count() == 0
    visitor.page.locator("#compare").click()
    visitor.page.wait_for_selector("#compared dl")


def test_an_edit_can_be_stopped_and_made_again(visitor: Visitor, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    steer = ConsistencyLens.steer

    def waiting(self: ConsistencyLens, *given: Any, **more: Any) -> Any:
        gate.pass_through()
        return steer(self, *given, **more)

    monkeypatch.setattr(ConsistencyLens, "steer", waiting)
    visitor.about_to_edit(8).fill("w9 w8")
    visitor.page.locator("#steer").click()
    stopped(visitor, gate, "#steer-stop")
    assert visitor.page.locator("#edited h3").count() == 0
    visitor.page.locator("#steer").click()
    visitor.page.wait_for_selector("#edited h3")
