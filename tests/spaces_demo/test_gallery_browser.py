"""The gallery in a headless browser, on a desk and on a phone, by keyboard, with the Hub on loopback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio", reason="the Space needs the extra 'space'")
pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
from extracting import saved_model
from hub_client import HubClient
from hub_server import TOKEN, HubServer
from space_runs import lens, run_folder
from space_server import SPACE, Visitor, browsing, serving

pytestmark = pytest.mark.browser
PUBLISHED = "me/on-the-hub"


def push(name: str) -> None:
    lens().push_to_hub(name)


@pytest.fixture(scope="module")
def browser() -> Any:
    with browsing() as found:
        yield found


@pytest.mark.parametrize("width", [1280, 390])
def test_a_lens_is_found_and_opened_by_keyboard(browser: Any, tmp_path: Path, width: int) -> None:
    lens().save_pretrained(tmp_path / "outputs/a_run/lens")
    words = ("--lens", str(run_folder()), "--subject", str(saved_model()), "--gallery", str(tmp_path))
    with HubServer() as server:
        client = HubClient(server.url, tmp_path / "client", HF_TOKEN=TOKEN)
        client(push, PUBLISHED)
        client.close()
        online = {"HF_ENDPOINT": server.url, "HF_HUB_OFFLINE": None, "HF_HOME": str(tmp_path / "home")}
        quiet = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_XET": "1"}
        with serving(tmp_path / "log.txt", *words, home=SPACE, environment={**online, **quiet}) as url:
            visitor = Visitor(browser, url, width=width).has_read()
            page = visitor.page
            page.get_by_role("button", name="Gallery").focus()
            page.keyboard.press("Enter")
            page.locator("#look").focus()
            page.keyboard.press("Enter")
            page.wait_for_selector("#found input[type=radio]")
            assert page.locator("#found").inner_text().count("·") == 4
            visitor.keep(f"gallery-{width}", tmp_path)
            assert visitor.overflow <= 0
            page.locator("#found input[type=radio]").nth(1).focus()
            page.keyboard.press("Space")
            visitor.until("document.querySelectorAll('#found input[type=radio]')[1].checked")
            page.locator("#open").focus()
            page.keyboard.press("Enter")
            visitor.until(f"document.querySelector('#notice').innerText.includes({PUBLISHED!r})")
            visitor.until(f"document.querySelector('#lens input').value == {PUBLISHED!r}")
            visitor.turn_to("Report")
            visitor.until("document.querySelector('#report')?.innerText.includes('no report')")
            assert PUBLISHED in page.locator("#notice").inner_text(), "no other tab writes over what was said"
            page.locator("#act").focus()
            page.keyboard.press("Enter")
            visitor.until(f"location.search.includes('lens={PUBLISHED.replace('/', '%2F')}')")
            visitor.has_read()
            visitor.leave()


def offered(visitor: Visitor, field: str) -> list[str]:
    """What a list offers, opened as a visitor opens it."""
    visitor.page.locator(f"#{field} input").focus()
    visitor.page.wait_for_selector(f"#{field} [role=option]")
    found = visitor.page.locator(f"#{field} [role=option]").all_inner_texts()
    visitor.page.locator(f"#{field} input").blur()
    return [each.strip().lstrip("✓").strip() for each in found]


def offers(visitor: Visitor, field: str, names: list[str]) -> bool:
    """Whether a list offers these, now or after a moment: a list is brought up to date by an event of the page."""
    for _ in range(20):
        if offered(visitor, field) == names:
            return True
        visitor.page.wait_for_timeout(250)
    return False


def test_an_opened_lens_can_be_compared_here_and_by_whoever_comes_next(browser: Any, tmp_path: Path) -> None:
    lens().save_pretrained(tmp_path / "outputs/a_run/lens")
    words = ("--lens", str(run_folder()), "--subject", str(saved_model()), "--gallery", str(tmp_path))
    with serving(tmp_path / "log.txt", *words, home=SPACE) as url:
        visitor, bystander = (Visitor(browser, url).has_read() for _ in range(2))
        there = ["some_demo_run", "some_demo_run · checkpoint-2"]
        visitor.turn_to("Compare")
        assert offers(visitor, "second", there)
        visitor.page.get_by_role("button", name="Gallery").click()
        visitor.page.locator("#look").click()
        visitor.page.wait_for_selector("#found input[type=radio]")
        visitor.page.locator("#open").click()
        visitor.until("document.querySelector('#lens input').value == 'a_run'")
        there.append("a_run")
        assert offers(visitor, "first", there) and offers(visitor, "second", there)
        visitor.page.locator("#second input").fill("a_run")
        visitor.page.keyboard.press("Enter")
        visitor.page.locator("#compare").click()
        visitor.page.wait_for_selector("#compared dl")
        assert "a_run" in visitor.page.locator("#compared").inner_text()
        bystander.turn_to("Compare")
        assert offers(bystander, "second", there)
        for query in ("?__theme=light", "?tab=compare"):
            later = Visitor(browser, url, query=query).has_read()
            assert offers(later, "lens", there)
            later.turn_to("Compare")
            assert offers(later, "second", there)
            later.leave()
        visitor.leave()
        bystander.leave()
