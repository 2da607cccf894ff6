"""All pictures of the docs, taken again by one command: each tab of the page and the card, on a desk and on a phone,
the terminal of a training, and the plots of the report.

python docs/take_pictures.py --lens outputs/demo                       # a run that has its report, into docs/images
python docs/take_pictures.py --lens outputs/demo --folder /tmp/images
python docs/take_pictures.py --lens outputs/demo outputs/sparse outputs/wire  # others beside it, under Rate
python docs/take_pictures.py --lens outputs/sparse --only features    # of a transcoder, or of a wire: --only slots

Needs the extra `dev` and a Chromium.
"""

from __future__ import annotations

import argparse
import html
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlencode

from markdown_it import MarkdownIt
from PIL import Image

from consistency_lens import AutoLens

ROOT = Path(__file__).parents[1]
APP = ROOT / "spaces_demo/app.py"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
WIDTHS = {"": 1280, "phone-": 390}  # what names begin with -> pixels
PATIENCE = 600.0  # seconds that a page may take to start, and a tab to show its work
# Roughly how the Hub draws a card.
PAPER = """<meta charset="utf-8"><style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 860px; margin: 2rem auto; padding: 0 1rem }
body { overflow-wrap: anywhere }
table { border-collapse: collapse; display: block; overflow-x: auto; font-size: 14px }
th, td { border: 1px solid #ddd; padding: .3rem .6rem; overflow-wrap: normal }
pre { background: #f6f8fa; padding: .8rem; overflow-x: auto }
img { max-width: 100% }
blockquote { border-left: 4px solid #ccc; padding-left: 1rem }
</style>"""

SCREEN = """<meta charset="utf-8"><style>
body { margin: 0; background: #1d2330 } pre { margin: 0; padding: 20px; color: #e6e6e6 }
pre { font: 14px/1.4 "DejaVu Sans Mono", monospace; width: max-content }
</style>"""
CHANGED = ("features", "slots")
PLOTS = ("controls.png", "truncation.png", "position.png", "training.png")


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    beside = "Folder of a run, and folders of others whose reports stand beside its own under Rate."
    parser.add_argument("--lens", required=True, nargs="+", help=beside)
    parser.add_argument("--subject", default=None, help="The model that it reads, if the lens does not say.")
    parser.add_argument("--text", default="", help="What is read; default the first of the page's own.")
    parser.add_argument("--words", default="was blue .", help="What the last explanation is changed into under Edit.")
    parser.add_argument("--folder", type=Path, default=ROOT / "docs/images", help="Where the pictures go.")
    parser.add_argument(
        "--only", choices=CHANGED, help="Name of the picture of another family's lens; no other is taken."
    )
    given = parser.parse_args(words)
    given.folder.mkdir(parents=True, exist_ok=True)
    run = Path(given.lens[0])
    shown = ["--lens", *given.lens, *(["--subject", given.subject] if given.subject else [])]
    if given.only:
        take_changed(given, shown)
        return
    with TemporaryDirectory() as scratch, serving(Path(scratch) / "log.txt", *shown) as url, browsing() as browser:
        for prefix, width in WIDTHS.items():
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="light")
            page.set_default_timeout(1000 * PATIENCE)
            page.goto(f"{url}/?{urlencode({'__theme': 'light', 'text': given.text})}")
            for name in tabs(page, given.words):
                keep(page.screenshot(full_page=True), given.folder / f"{prefix}{name}.png")
            draw_card(page, AutoLens.download(str(run)))
            keep(page.screenshot(full_page=True), given.folder / f"{prefix}card.png")
            page.close()
        page = browser.new_page(viewport={"width": 800, "height": 100})
        page.set_content(SCREEN + f"<pre>{html.escape(said_last(run / 'log.txt'))}</pre>")
        keep(page.screenshot(full_page=True), given.folder / "console.png")
    for plot in PLOTS:
        keep((run / "report" / plot).read_bytes(), given.folder / plot)


def take_changed(given: argparse.Namespace, shown: Sequence[str]) -> None:
    """What a family shows that has something to change: the first slider at 0, or the answers to what is asked."""
    with TemporaryDirectory() as scratch, serving(Path(scratch) / "log.txt", *shown) as url, browsing() as browser:
        for prefix, width in WIDTHS.items():
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="light")
            page.set_default_timeout(1000 * PATIENCE)
            page.goto(f"{url}/?{urlencode({'__theme': 'light', 'text': given.text})}")
            page.wait_for_selector("#near form")
            page.wait_for_function("location.search.includes('position=')", polling=100)
            if given.only == "features":
                page.locator("#near input[type=range]").first.focus()
                page.keyboard.press("Home")
            else:
                page.locator("#near button[type=submit]").click()
            page.wait_for_selector("#changed .numbers")
            keep(page.screenshot(full_page=True), given.folder / f"{prefix}{given.only}.png")


def tabs(page: Any, words: str) -> Iterator[str]:
    """The name of each tab, once its main act is done and shown."""

    page.wait_for_selector("#near h3")
    last = page.locator(".token").count()
    yield "explorer"
    turn_to(page, "Scan")
    page.wait_for_selector("#scan [role=gridcell]")
    yield "scan"
    turn_to(page, "Edit")
    token = f"document.querySelector('#edit-token input')?.value.startsWith('{last}:')"
    page.wait_for_function(token, polling=100)
    page.locator("#edit-words textarea, #edit-words input").first.fill(words)
    page.locator("#steer").click()
    page.wait_for_selector("#edited h3, #notice [role=alert]")
    if page.locator("#notice [role=alert]").count():
        sys.exit(f"error: {page.locator('#notice').inner_text()}")
    yield "edit"
    turn_to(page, "Compare")
    page.locator("#compare").click()
    page.wait_for_selector("#compared dl")
    yield "compare"
    turn_to(page, "Rate")
    page.wait_for_selector("#rate figure")
    yield "rates"
    turn_to(page, "Report")
    page.wait_for_selector("#report .verdict")
    yield "report"


def said_last(log: Path) -> str:
    """What a training printed around its last evaluation: some steps, the numbers, and the held-out explanations."""
    lines = log.read_text(encoding="utf-8").splitlines()
    titles = [i for i, line in enumerate(lines) if "held-out activations, from" in line]
    if not titles:
        sys.exit(f"error: {log} holds no evaluation: name the folder of a run")
    (first, last) = (max(0, titles[-1] - 7), titles[-1] + 1)
    while last < len(lines) and (not lines[last] or lines[last].startswith(" ")):
        last += 1
    return "\n".join(lines[first:last]).rstrip()


def draw_card(page: Any, lens: Path) -> None:
    """The whole of it: front matter is for the Hub and not for readers."""
    _, _, text = (lens / "README.md").read_text(encoding="utf-8").partition("\n---\n")
    with TemporaryDirectory() as scratch:
        drawn = Path(scratch) / "card.html"
        drawn.write_text(PAPER + MarkdownIt("commonmark").enable("table").render(text), encoding="utf-8")
        shutil.copytree(lens / "report", Path(scratch) / "report")
        page.goto(drawn.as_uri(), wait_until="load")


@contextmanager
def serving(
    log: Path, *words: str, app: Path = APP, environment: Mapping[str, str] = os.environ, patience: float = PATIENCE
) -> Iterator[str]:
    """The address of a page in a process of its own: it says itself which port it found.

    Args:
        log: where all that it prints goes.
        words: of its command line.
        app: the script.
        environment: of the process.
        patience: seconds that it may take to start.
    """
    command = [sys.executable, "-u", str(app), "--host", "127.0.0.1", *words]
    with log.open("w") as out, subprocess.Popen(command, env=environment, stdout=out, stderr=out) as process:
        try:
            end = time.monotonic() + patience
            while not (found := re.search(r"on local URL: +(\S+)", said := log.read_text(encoding="utf-8"))):
                if process.poll() is not None or time.monotonic() > end:
                    sys.exit(f"error: the page did not start\n{said}")
                time.sleep(0.1)
            yield found[1]
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def browsing() -> Iterator[Any]:
    """A headless browser that asks nobody for anything."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        sys.exit(f"error: no browser. Install one of {', '.join(BROWSERS)}.")
    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=path, args=list(QUIET))
        try:
            yield browser
        finally:
            browser.close()


def turn_to(page: Any, tab: str) -> None:
    page.get_by_role("tab", name=tab, exact=True).click()
    page.get_by_role("tab", name=tab, exact=True, selected=True).wait_for()


def keep(drawn: bytes, path: Path) -> None:
    """A PNG of 256 colours, a third of the bytes; not dithered, which would blur letters and cost bytes."""
    picture = Image.open(BytesIO(drawn)).convert("RGB")
    picture.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()
