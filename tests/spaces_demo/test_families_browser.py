"""What the families of features and of soft tokens show, in a headless browser: a desk, a phone, and a keyboard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio", reason="the Space needs the extra 'space'")
pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright")
from fake_reports import features_report, soft_report
from family_pages import SOFT, SPARSE, TEXT, folder_of, lenses_of, page_of
from space_server import Visitor, browsing

pytestmark = pytest.mark.browser
WORDS = "w1 w2 w3 w4 w5 w6"
WIDTHS = {"desk": 1280, "phone": 390}
DONE = "!document.querySelector('#notice .busy') && document.querySelector('#changed .numbers')"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing() as found:
        yield found


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with page_of(lenses_of(SPARSE, SOFT, TEXT)) as found:
        yield found


@pytest.fixture
def visit(browser: Any, url: str) -> Iterator[Callable[..., Visitor]]:
    visitors: list[Visitor] = []

    def come(lens: str, **how: Any) -> Visitor:
        query = f"?__theme={how.get('scheme', 'light')}&lens={lens}&text={WORDS.replace(' ', '+')}"
        visitors.append(Visitor(browser, url, query=query, **how).has_read())
        settled(visitors[-1])
        return visitors[-1]

    yield come
    for visitor in visitors:
        visitor.leave()


def settled(visitor: Visitor, position: str = "") -> None:
    """Wait until what was opened will not be drawn again: the link follows when all has come."""
    visitor.until(f"/position=[1-9]/.test(location.search) && location.search.includes('position={position}')")


def result_with(visitor: Visitor, said: str) -> str:
    visitor.until(f"{DONE} && document.querySelector('#changed').innerText.includes({said!r})")
    assert visitor.page.locator("#notice [role=alert]").count() == 0
    return str(visitor.page.locator("#changed").inner_text())


@pytest.mark.parametrize(("place", "scheme"), [("desk", "light"), ("phone", "dark")])
def test_a_feature_is_switched_off_by_its_slider(
    visit: Callable[..., Visitor], tmp_path: Path, place: str, scheme: str
) -> None:
    visitor = visit(SPARSE, width=WIDTHS[place], scheme=scheme)
    page = visitor.page
    visitor.until("document.querySelector('h1 + p')?.innerText.includes('24 features')")
    assert page.get_by_role("tab", name="Edit", exact=True).count() == 0
    page.locator(".token").nth(3).click()
    visitor.near(4)
    settled(visitor, "4")
    slider = page.locator("#near input[type=range]").first
    name = slider.get_attribute("data-name")
    slider.focus()
    page.keyboard.press("Home")
    assert f"{name} × 0" in result_with(visitor, f"{name} × 0")
    assert page.locator("#near output").first.inner_text() == "0"
    page.keyboard.press("End")
    result_with(visitor, f"{name} × 4")
    page.locator("#near select").select_option("lens")
    visitor.until(f"{DONE} && document.querySelector('#near select').value == 'lens'")
    visitor.keep(f"features-{place}-{scheme}", tmp_path)
    assert visitor.overflow <= 0
    page.get_by_role("button", name="Reset").click()
    result_with(visitor, "nothing yet")
    page.locator(".token").nth(0).click()
    visitor.near(1)
    visitor.until("!document.querySelector('#changed section')")


@pytest.mark.parametrize(("place", "scheme"), [("desk", "light"), ("phone", "dark")])
def test_every_model_is_asked_about_a_code_whose_slots_and_bytes_can_be_changed(
    visit: Callable[..., Visitor], tmp_path: Path, place: str, scheme: str
) -> None:
    visitor = visit(SOFT, width=WIDTHS[place], scheme=scheme)
    page = visitor.page
    visitor.until("document.querySelector('h1 + p')?.innerText.includes('read it in the text')")
    assert page.locator("#near h3 q").inner_text() == "w5 w6"
    prompt = page.locator("#near input[type=text]")
    prompt.fill("w9 w8")
    prompt.press("Enter")
    result_with(visitor, "3 vectors of 32 numbers at 16 bits")
    page.locator("#near select[data-name=bits]").select_option("4")
    said = result_with(visitor, "at 4 bits")
    assert all(name in said for name in ("words", "turned", "from the text", "from neither", "UTF-8"))
    page.locator("#near .switch").first.click()
    result_with(visitor, "2 vectors of 32 numbers at 4 bits")
    page.locator("#near select[data-name=swapped]").select_option("2")
    visitor.until(f"{DONE} && document.querySelector('#near [data-name=swapped]').value == '2'")
    visitor.keep(f"slots-{place}-{scheme}", tmp_path)
    assert visitor.overflow <= 0
    slider = page.locator("#near input[type=range]")
    slider.focus()
    page.keyboard.press("End")
    page.wait_for_selector("#notice [role=alert]")
    assert "At this rate the code has 1" in page.locator("#notice").inner_text()


def test_a_page_follows_from_one_family_to_another(visit: Callable[..., Visitor]) -> None:
    visitor = visit(SPARSE)
    page = visitor.page
    page.locator("#lens input").fill(TEXT)
    page.keyboard.press("Enter")
    page.locator("#act").click()
    visitor.until("document.querySelector('h1 + p')?.innerText.includes('at most 5 tokens')")
    visitor.about_to_edit(6)
    visitor.turn_to("Scan")
    visitor.until("document.querySelector('#scan')?.innerText.includes('cosine')")
    assert page.locator("#near form").count() == 0


@pytest.mark.parametrize(("place", "scheme"), [("desk", "light"), ("phone", "dark")])
def test_three_media_stand_in_one_picture(
    visit: Callable[..., Visitor], tmp_path: Path, place: str, scheme: str
) -> None:
    for name, found in ((SPARSE, features_report()), (SOFT, soft_report())):
        found.save(folder_of(name) / "lens/report")
    visitor = visit(TEXT, width=WIDTHS[place], scheme=scheme)
    visitor.turn_to("Rate")
    visitor.until("document.querySelectorAll('#rate polyline').length == 4")
    assert visitor.page.locator("#rate .legend li").count() == 4
    strokes = "[...document.querySelectorAll('#rate polyline')].map(each => getComputedStyle(each).stroke)"
    assert len(set(visitor.page.evaluate(strokes))) == 3, "each medium has a colour"
    visitor.until("location.search.includes('tab=rate')")
    visitor.keep(f"rate-{place}-{scheme}", tmp_path)
    assert visitor.overflow <= 0
