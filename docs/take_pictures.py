"""All pictures of the docs, taken again by one command: each tab of the page and the card, on a desk and on a phone.

python docs/take_pictures.py --lens outputs/demo                       # a run that has its report, into docs/images
python docs/take_pictures.py --lens outputs/demo --folder /tmp/images

Needs the extra `dev` and a Chromium.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlencode

from markdown_it import MarkdownIt
from playwright.sync_api import sync_playwright

from consistency_lens import AutoLens

ROOT = Path(__file__).parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTHS = {"": 1280, "phone-": 390}  # what names begin with -> pixels
PATIENCE = 600.0  # seconds that a page may take to start, and a tab to show its work
# Roughly how the Hub draws a card.
PAPER = """<meta charset="utf-8"><style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 860px; margin: 2rem auto; padding: 0 1rem }
body { overflow-wrap: anywhere }
table { border-collapse: collapse; display: block; overflow-x: auto; font-size: 14px }
th, td { border: 1px solid #ddd; padding: .3rem .6rem }
pre { background: #f6f8fa; padding: .8rem; overflow-x: auto }
img { max-width: 100% }
blockquote { border-left: 4px solid #ccc; padding-left: 1rem }
</style>"""


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lens", required=True, help="Folder of a run.")
    parser.add_argument("--subject", default=None, help="The model that it reads, if the lens does not say.")
    parser.add_argument("--text", default="", help="What is read; default the first of the page's own.")
    parser.add_argument("--words", default="was blue .", help="What the last explanation is changed into under Edit.")
    parser.add_argument("--folder", type=Path, default=ROOT / "docs/images", help="Where the pictures go.")
    given = parser.parse_args(words)
    given.folder.mkdir(parents=True, exist_ok=True)
    shown = ["--lens", given.lens, *(["--subject", given.subject] if given.subject else [])]
    with serving(shown) as url, browsing() as browser:
        for prefix, width in WIDTHS.items():
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="light")
            page.set_default_timeout(1000 * PATIENCE)
            page.goto(f"{url}/?{urlencode({'__theme': 'light', 'text': given.text})}")
            for name in tabs(page, given.words):
                page.screenshot(path=given.folder / f"{prefix}{name}.png", full_page=True)
            draw_card(page, AutoLens.download(given.lens))
            page.screenshot(path=given.folder / f"{prefix}card.png", full_page=True)
            page.close()


def tabs(page: Any, words: str) -> Iterator[str]:
    """The name of each tab, once its main act is done and shown."""

    def turn_to(tab: str) -> None:
        page.get_by_role("tab", name=tab, exact=True).click()
        page.get_by_role("tab", name=tab, exact=True, selected=True).wait_for()

    page.wait_for_selector("#near h3")
    last = page.locator(".token").count()
    yield "explorer"
    turn_to("Scan")
    page.wait_for_selector("#scan [role=gridcell]")
    yield "scan"
    turn_to("Edit")
    token = f"document.querySelector('#edit-token input')?.value.startsWith('{last}:')"
    page.wait_for_function(token, polling=100)
    page.locator("#edit-words textarea, #edit-words input").first.fill(words)
    page.locator("#steer").click()
    page.wait_for_selector("#edited h3, #notice [role=alert]")
    if page.locator("#notice [role=alert]").count():
        sys.exit(f"error: {page.locator('#notice').inner_text()}")
    yield "edit"
    turn_to("Compare")
    page.locator("#compare").click()
    page.wait_for_selector("#compared dl")
    yield "compare"
    turn_to("Report")
    page.wait_for_selector("#report .verdict")
    yield "report"


def draw_card(page: Any, lens: Path) -> None:
    """The whole of it: front matter is for the Hub and not for readers."""
    _, _, text = (lens / "README.md").read_text(encoding="utf-8").partition("\n---\n")
    with TemporaryDirectory() as scratch:
        drawn = Path(scratch) / "card.html"
        drawn.write_text(PAPER + MarkdownIt("commonmark").enable("table").render(text), encoding="utf-8")
        shutil.copytree(lens / "report", Path(scratch) / "report")
        page.goto(drawn.as_uri(), wait_until="load")


@contextmanager
def serving(shown: Sequence[str]) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, str(ROOT / "spaces_demo/app.py"), "--host", "127.0.0.1", "--port", str(port), *shown]
    with subprocess.Popen(command) as process:
        try:
            end = time.monotonic() + PATIENCE
            while not answers(url):
                if process.poll() is not None or time.monotonic() > end:
                    sys.exit("error: the page did not start")
                time.sleep(0.3)
            yield url
        finally:
            process.terminate()


def answers(url: str) -> bool:
    try:
        return bool(urllib.request.urlopen(url, timeout=5).status == 200)
    except (urllib.error.URLError, OSError):
        return False


@contextmanager
def browsing() -> Iterator[Any]:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        sys.exit(f"error: no browser. Install one of {', '.join(BROWSERS)}.")
    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield browser
        finally:
            browser.close()


if __name__ == "__main__":
    main()
