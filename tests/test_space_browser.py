"""The Space in a headless browser: each tab's main act, on a desk and on a phone, and what must never happen."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from space_runs import HOSTILE, TEXT

pytest.importorskip("gradio", reason="the Space needs the extra 'space'")
pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright")
from space_server import Visitor, browsing, serving

pytestmark = pytest.mark.browser
WIDTHS = {"desk": 1280, "phone": 390, "zoom": 640}  # 1280 at 200 % is laid out as 640


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing() as found:
        yield found


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, browser: Any) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("space") / "log.txt") as address:
        yield address


@pytest.fixture
def visit(browser: Any, url: str) -> Iterator[Callable[..., Visitor]]:
    """Open the page; at the end every visitor is asked what he saw on the network."""
    visitors: list[Visitor] = []

    def come(**how: Any) -> Visitor:
        visitors.append(Visitor(browser, url, **how))
        return visitors[-1]

    yield come
    for visitor in visitors:
        visitor.leave()


def read(visitor: Visitor, text: str) -> None:
    visitor.page.locator("#text textarea").fill(text)
    visitor.page.locator("#act").click()


@pytest.mark.parametrize(
    ("place", "scheme"), [("desk", "light"), ("phone", "light"), ("phone", "dark"), ("zoom", "dark")]
)
def test_every_tab_does_its_main_act(visit: Callable[..., Visitor], tmp_path: Path, place: str, scheme: str) -> None:
    visitor = visit(width=WIDTHS[place], scheme=scheme).has_read()
    page = visitor.page

    def done(name: str) -> None:
        assert visitor.overflow <= 0, f"{name} is wider than the window"
        visitor.keep(f"{name}-{place}-{scheme}", tmp_path)

    read(visitor, TEXT)
    page.wait_for_function("document.querySelectorAll('.token').length == 8")
    page.wait_for_function("document.querySelector('#near h3').innerText.includes('Token 8')")
    page.locator(".token").nth(2).click()
    page.wait_for_function("document.querySelector('#near h3').innerText.includes('Token 3')")
    assert page.locator("#near .bars li").count() >= 5
    page.wait_for_function("location.search.includes('position=3')")
    done("read")
    visitor.turn_to("Scan")
    page.wait_for_function("document.querySelector('#scan').innerText.includes('w5')")
    with page.expect_download() as download:
        page.get_by_text("Download CSV").click()
    assert len(Path(download.value.path()).read_text("utf-8-sig").splitlines()) == 9
    done("scan")
    visitor.turn_to("Edit")
    page.locator("#edit-words textarea, #edit-words input").first.fill("w9 w8")
    page.locator("#steer").click()
    page.wait_for_selector("#edited h3")
    assert (
        "At token 3" in page.locator("#edited h3").inner_text() and "w9 w8" in page.locator("#edited ins").inner_text()
    )
    done("edit")
    visitor.turn_to("Compare")
    page.locator("#compare").click()
    page.wait_for_selector("#compared dl")
    assert page.locator("#curve circle").count() == 3
    done("compare")
    visitor.turn_to("Report")
    page.wait_for_selector("#report .verdict")
    assert page.locator("#report img").count() == 4
    done("report")


def test_a_link_brings_back_text_position_and_tab(visit: Callable[..., Visitor]) -> None:
    first = visit().has_read()
    read(first, TEXT)
    first.page.wait_for_function("document.querySelectorAll('.token').length == 8")
    first.page.locator(".token").nth(4).click()
    first.page.wait_for_function("location.search.includes('position=5')")
    first.turn_to("Scan")
    first.page.wait_for_function("location.search.includes('tab=scan')")
    first.page.wait_for_function("document.querySelector('#link textarea').value == location.href")
    second = visit(query="?" + first.page.url.partition("?")[2]).has_read()
    second.page.wait_for_function("document.querySelector('#scan').innerText.includes('w5')")
    assert second.page.locator("#text textarea").input_value() == TEXT
    second.turn_to("Read")
    assert "Token 5" in second.page.locator("#near h3").inner_text()
    assert second.page.locator(".token[aria-pressed=true]").get_attribute("data-position") == "5"


def test_the_tokens_are_one_stop_of_the_tab_key_and_arrows_move_inside(visit: Callable[..., Visitor]) -> None:
    page = visit().has_read().page
    page.locator("#stop").focus()
    for _ in range(12):  # over the tabs
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('token')"):
            break
    here = int(page.evaluate("document.activeElement.dataset.position"))
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    page.wait_for_function(f"document.querySelector('#near h3').innerText.includes('Token {here - 2}:')")
    page.keyboard.press("Tab")
    assert not page.evaluate("document.activeElement.classList.contains('token')")


def test_the_table_sorts_numbers_as_numbers(visit: Callable[..., Visitor]) -> None:
    visitor = visit().has_read()
    read(visitor, " ".join(f"w{i}" for i in range(1, 13)))
    visitor.page.wait_for_function("document.querySelectorAll('.token').length == 12")
    visitor.turn_to("Scan")
    visitor.page.wait_for_function("document.querySelector('#scan').innerText.includes('w9')")
    header = visitor.page.locator("#scan th").filter(has_text="KL").last
    header.click()
    visitor.page.wait_for_timeout(1500)
    script = (
        "[...document.querySelectorAll('#scan tbody tr')].map(r => r.cells.length > 2 ? r.cells[2].innerText : '')"
    )
    shown = [float(text) for text in visitor.page.evaluate(script) if text.strip()]
    assert len(shown) >= 8 and shown in (sorted(shown), sorted(shown, reverse=True))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Write a few words"),
        ("w1 " * 350_000, "at most 4,000"),
        ("w1 " * 200, "at most 128"),
        ("<eos> hi", "mark"),
    ],
)
def test_what_cannot_be_read_is_met_with_a_message(visit: Callable[..., Visitor], text: str, said: str) -> None:
    visitor = visit().has_read()
    page = visitor.page
    page.evaluate(
        "text => { const t = document.querySelector('#text textarea'); t.value = text; "
        "t.dispatchEvent(new Event('input', {bubbles: true})); }",
        text,
    )
    page.locator("#act").click()
    page.wait_for_selector("#notice [role=alert]")
    message = page.locator("#notice").inner_text()
    assert said in message and len(message) < 500 and "Traceback" not in page.content()


def test_markup_in_texts_words_and_links_does_not_run(visit: Callable[..., Visitor]) -> None:
    visitor = visit().has_read()
    page = visitor.page
    read(visitor, HOSTILE)
    page.wait_for_function("document.querySelector('#notice').innerText.includes('does not know')")
    assert "<script>" in page.locator("#notice").inner_text()
    visitor.turn_to("Edit")
    page.locator("#edit-words textarea, #edit-words input").first.fill(HOSTILE)
    page.locator("#steer").click()
    page.wait_for_selector("#notice [role=alert]")
    for name, value in {"lens": HOSTILE, "position": HOSTILE, "text": HOSTILE}.items():
        link = "?" + page.evaluate("pair => new URLSearchParams([pair]).toString()", [name, value])
        other = visit(query=link)
        other.page.wait_for_function("document.querySelector('#notice').innerText.length > 5")
        other.page.wait_for_timeout(300)
        assert other.page.evaluate("window.pwned") is None
    assert page.evaluate("window.pwned") is None
    assert page.locator("#tokens script, #tokens img, #near img, #notice img, #notice script").count() == 0


def test_reading_can_be_stopped(visit: Callable[..., Visitor]) -> None:
    visitor = visit().has_read()
    read(visitor, " ".join(f"w{i % 90}" for i in range(120)))
    visitor.page.locator("#stop").click()
    visitor.page.wait_for_function("document.querySelector('#notice').innerText.includes('Stopped')")
    read(visitor, TEXT)
    visitor.page.wait_for_function("document.querySelectorAll('.token').length == 8")


def test_colours_are_one_hue_ordered_by_lightness_and_words_on_them_can_be_read(visit: Callable[..., Visitor]) -> None:
    for scheme in ("light", "dark"):
        page = visit(scheme=scheme).has_read().page
        script = """() => [0, 1, 2, 3, 4].map(i => {
            const e = document.createElement('button'); e.className = 'token kl' + i; document.body.append(e);
            const s = getComputedStyle(e), page = getComputedStyle(document.querySelector('.gradio-container'));
            const back = i ? s.backgroundColor : page.backgroundColor;
            const found = [back, s.color].map(c => c.match(/[\\d.]+/g).slice(0, 3).map(Number));
            e.remove(); return found; })"""
        pairs = json.loads(json.dumps(page.evaluate(script)))
        lights = [luminance(back) for back, _ in pairs]
        assert lights == sorted(lights, reverse=scheme == "light")
        assert all(contrast(*pair) >= 4.5 for pair in pairs[1:]), [round(contrast(*pair), 1) for pair in pairs]


def luminance(colour: list[float]) -> float:
    """Relative luminance as WCAG defines it."""
    parts = [c / 255 for c in colour]
    parts = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def contrast(first: list[float], second: list[float]) -> float:
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)
