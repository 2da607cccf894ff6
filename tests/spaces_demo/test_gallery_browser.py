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
