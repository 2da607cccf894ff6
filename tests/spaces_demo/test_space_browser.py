"""The Space in a headless browser: each tab's main act, on a desk and on a phone, and what must never happen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest
from space_runs import HOSTILE, TEXT

pytest.importorskip("gradio", reason="the Space needs the extra 'space'")
pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright")
from space_server import Visitor, browsing, serving

pytestmark = pytest.mark.browser
WIDTHS = {"desk": 1280, "phone": 390, "zoom": 640}  # 1280 at 200 % is laid out as 640

# What lies behind each level of KL, and its words, as red, green and blue; a level may be as clear as glass.
COLOURS = """(kinds) => kinds.map(kind => {
    const e = document.createElement('button');
    e.className = 'token ' + kind;
    document.querySelector('#tokens').append(e);
    let behind = e;
    const clear = colour => colour == 'transparent' || /, 0\\)$/.test(colour);
    while (behind.parentElement && clear(getComputedStyle(behind).backgroundColor)) behind = behind.parentElement;
    const found = [getComputedStyle(behind).backgroundColor, getComputedStyle(e).color];
    e.remove();
    return found.map(c => c.match(/[\\d.]+/g).slice(0, 3).map(Number));
})"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing() as found:
        yield found


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, browser: Any) -> Iterator[str]:
    """The address; at the end, whatever the visitors did, the server has written no trace."""
    log = tmp_path_factory.mktemp("space") / "log.txt"
    with serving(log) as address:
        yield address
    assert "Traceback" not in (said := log.read_text()), said


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


def read(visitor: Visitor, text: str) -> Visitor:
    visitor.page.locator("#text textarea").fill(text)
    visitor.page.locator("#act").click()
    return visitor


@pytest.mark.parametrize(
    ("place", "scheme"),
    [("desk", "light"), ("desk", "dark"), ("phone", "light"), ("phone", "dark"), ("zoom", "dark")],
)
def test_every_tab_does_its_main_act(visit: Callable[..., Visitor], tmp_path: Path, place: str, scheme: str) -> None:
    visitor = visit(width=WIDTHS[place], scheme=scheme).has_read()
    page = visitor.page

    def done(name: str) -> None:
        assert visitor.overflow <= 0, f"{name} is wider than the window"
        visitor.keep(f"{name}-{place}-{scheme}", tmp_path)

    read(visitor, TEXT).has_read(8)
    page.locator(".token").nth(2).click()
    visitor.near(3)
    assert page.locator("#near .bars li").count() >= 5
    visitor.until("location.search.includes('position=3')")
    done("read")
    visitor.turn_to("Scan")
    visitor.until("document.querySelector('#scan')?.innerText.includes('w5')")
    with page.expect_download() as download:
        page.get_by_text("Download CSV").click()
    assert len(Path(download.value.path()).read_text("utf-8-sig").splitlines()) == 9
    with page.expect_download() as download:
        page.get_by_text("Download Parquet").click()
    assert parquet.read_table(download.value.path())["token"].to_pylist() == TEXT.split()
    done("scan")
    visitor.about_to_edit(3).fill("w9 w8")
    page.locator("#steer").click()
    page.wait_for_selector("#edited h3")
    assert "At token 3" in page.locator("#edited h3").inner_text()
    assert "w9 w8" in page.locator("#edited ins").inner_text()
    done("edit")
    visitor.turn_to("Compare")
    page.locator("#compare").click()
    page.wait_for_selector("#compared dl")
    visitor.until("document.querySelectorAll('#curve circle').length == 3")
    done("compare")
    visitor.turn_to("Report")
    page.wait_for_selector("#report .verdict")
    assert page.locator("#report img").count() == 4
    turned = page.evaluate("getComputedStyle(document.querySelector('#report img')).filter").startswith("invert(1)")
    assert turned == (scheme == "dark"), "pictures are dark where the page is"
    seen = {
        "Remarks": "#report ul",
        "Pictures": "#report img",
        "Tables": "#report table",
        "What the words mean": "#report dl",
    }
    page.locator("#report .panes input").first.focus()
    for name, content in seen.items():
        assert [page.locator(each).first.is_visible() for each in seen.values()] == [
            each == content for each in seen.values()
        ]
        done(f"report-{name.split()[0].lower()}")
        page.keyboard.press("ArrowRight")


def test_on_a_phone_a_token_that_was_tapped_is_shown_beside_it(visit: Callable[..., Visitor], tmp_path: Path) -> None:
    visitor = visit(width=WIDTHS["phone"]).has_read()
    page = visitor.page
    read(visitor, " ".join([TEXT] * 8)).has_read(64)

    def edges(selector: str) -> tuple[float, float]:
        box = page.locator(selector).first.bounding_box()
        return box["y"], box["y"] + box["height"]

    assert edges("#near h3")[0] > edges(".token[data-position='64']")[1], "nothing is covered before somebody taps"
    for position in (1, 40, 64):
        token = f".token[data-position='{position}']"
        page.locator(token).click()
        visitor.near(position)
        (_, end), (top, bottom) = edges(token), edges("#near h3")
        assert 0 < end <= top < bottom <= page.evaluate("innerHeight")
        visitor.keep(f"tapped-{position}-phone", tmp_path)
    assert visitor.overflow <= 0


def test_a_link_brings_back_text_position_and_tab(visit: Callable[..., Visitor]) -> None:
    first = visit().has_read()
    read(first, TEXT).has_read(8)
    first.page.locator(".token").nth(4).click()
    first.until("location.search.includes('position=5')")
    first.turn_to("Scan")
    first.until("location.search.includes('tab=scan')")
    first.until("document.querySelector('#link textarea').value == location.href")
    second = visit(query="?" + first.page.url.partition("?")[2])
    second.until("document.querySelector('#scan')?.innerText.includes('w5')")
    assert second.page.locator("#text textarea").input_value() == TEXT
    second.turn_to("Read")
    second.near(5)
    assert second.page.locator(".token[aria-pressed=true]").get_attribute("data-position") == "5"


def test_the_tokens_are_one_stop_of_the_tab_key_and_arrows_move_inside(visit: Callable[..., Visitor]) -> None:
    visitor = visit().has_read()
    page = visitor.page
    page.locator("#stop").focus()
    for _ in range(12):  # over the tabs
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('token')"):
            break
    here = int(page.evaluate("document.activeElement.dataset.position"))
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    visitor.near(here - 2)
    page.keyboard.press("Tab")
    assert not page.evaluate("document.activeElement.classList.contains('token')")


def test_the_table_is_put_in_another_order(visit: Callable[..., Visitor]) -> None:
    visitor = visit().has_read()
    read(visitor, " ".join(f"w{i}" for i in range(1, 13))).has_read(12)
    visitor.turn_to("Scan")
    visitor.until("document.querySelector('#scan')?.innerText.includes('w9')")
    visitor.page.locator("#order input").click()
    visitor.page.get_by_role("option", name="worst KL first").click()
    shown = (
        "[...document.querySelectorAll('#scan [role=row]')]"
        ".map(row => parseFloat([...row.querySelectorAll('[role=gridcell]')].map(cell => cell.innerText)[2]))"
        ".filter(kl => kl >= 0)"
    )
    worst_first = f"(kls => kls.length >= 8 && kls.every((kl, i) => i == 0 || kl <= kls[i - 1]))({shown})"
    visitor.until(worst_first)
    visitor.until("location.search.includes('order=worst')")
    visit(query="?" + visitor.page.url.partition("?")[2]).until(worst_first)


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
    visitor.until("document.querySelector('#notice').innerText.includes('<script>')")
    assert "does not know" in page.locator("#notice").inner_text()
    last = len(HOSTILE.split())
    visitor.has_read(last).about_to_edit(last).fill(HOSTILE)
    page.locator("#steer").click()
    page.wait_for_selector("#notice [role=alert]")
    for name, met in {"lens": "#notice [role=alert]", "position": "#notice [role=alert]", "text": "#near h3"}.items():
        link = "?" + page.evaluate("pair => new URLSearchParams([pair]).toString()", [name, HOSTILE])
        other = visit(query=link)
        other.page.wait_for_selector(met)
        other.page.wait_for_timeout(300)  # for what must not happen
        assert other.page.evaluate("window.pwned") is None
    assert page.evaluate("window.pwned") is None
    assert page.locator("#tokens script, #tokens img, #near img, #notice img, #notice script").count() == 0


def test_colours_are_one_hue_ordered_by_lightness_and_words_on_them_can_be_read(visit: Callable[..., Visitor]) -> None:
    for scheme in ("light", "dark"):
        kinds = [*(f"kl{level}" for level in range(5)), *(f"kl{level} early" for level in range(5))]
        *pairs, grey = visit(scheme=scheme).has_read().page.evaluate(COLOURS, kinds)
        pairs, early = pairs[:5], pairs[5:]
        assert all(pair == grey for pair in early), "what was never measured has no colour of the scale"
        assert max(grey[0]) - min(grey[0]) < 20 and contrast(*grey) >= 4.5 and grey not in pairs
        lights = [luminance(back) for back, _ in pairs]
        assert lights == sorted(lights, reverse=scheme == "light") and (lights[0] > 0.5) == (scheme == "light")
        assert all(contrast(*pair) >= 4.5 for pair in pairs), [round(contrast(*pair), 1) for pair in pairs]


def luminance(colour: list[float]) -> float:
    """Relative luminance as WCAG defines it."""
    parts = [c / 255 for c in colour]
    parts = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def contrast(first: list[float], second: list[float]) -> float:
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)
