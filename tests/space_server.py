"""The Space as its visitors have it: a process of its own on loopback, and a headless browser."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from extracting import saved_model
from space_runs import SPACE, run_folder

DOCS = Path(__file__).parents[1] / "docs"
if str(DOCS) not in sys.path:
    sys.path.insert(0, str(DOCS))

import take_pictures  # noqa: E402

PICTURES = "SPACE_PICTURES"  # the folder where pictures of the pages are kept
OFFLINE = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}


def serving(
    log: Path, *words: str, home: Path = SPACE, environment: Mapping[str, str | None] = OFFLINE
) -> AbstractContextManager[str]:
    """The address of a page that shows the tiny run, or what `words` say instead.

    Args:
        log: where all that it prints goes.
        words: of its command line.
        home: the folder of the page.
        environment: beside what is there; None takes a variable away.
    """
    tiny = ("--lens", str(run_folder()), "--subject", str(saved_model())) if home == SPACE else ()
    around = {k: v for k, v in {**os.environ, "OMP_NUM_THREADS": "1", **environment}.items() if v is not None}
    return take_pictures.serving(log, *(words or tiny), app=home / "app.py", environment=around)


class Visitor:
    """One page of a browser that writes down what the page asks the network for, and what goes wrong in it."""

    def __init__(self, browser: Any, url: str, width: int = 1280, scheme: str = "light", query: str = "") -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page.set_default_timeout(90_000)
        self.hosts: set[str] = set()
        self.errors: list[str] = []
        self.page.on("request", self._note)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(f"{url}/{query or f'?__theme={scheme}'}")

    def _note(self, request: Any) -> None:
        if found := re.match(r"\w+://([^/:]+)", request.url):
            self.hosts.add(found[1])

    def has_read(self, tokens: int | None = None) -> Visitor:
        """Wait until a text was read, of so many tokens, whatever tab is open."""
        self.page.wait_for_selector("#near h3", state="attached")
        if tokens is not None:
            self.until(f"document.querySelectorAll('.token').length == {tokens}")
            self.near(tokens)
        return self

    def near(self, position: int) -> None:
        """Wait until this token is shown from near."""
        self.until(f"document.querySelector('#near h3')?.textContent.includes('Token {position}:')")

    def about_to_edit(self, position: int) -> Any:
        """The field for the words of this token, once they stand in it: what is written before would be lost."""
        self.turn_to("Edit")
        self.until(f"document.querySelector('#edit-token input')?.value.startsWith('{position}:')")
        return self.page.locator("#edit-words textarea, #edit-words input").first

    def until(self, true: str) -> None:
        """Wait for what a script says. The page asks itself ten times a second: a hidden one draws no frames."""
        self.page.wait_for_function(true, polling=100)

    def turn_to(self, tab: str) -> None:
        take_pictures.turn_to(self.page, tab)

    def keep(self, name: str, fallback: Path) -> None:
        """A picture for people."""
        folder = Path(os.environ.get(PICTURES, fallback))
        folder.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=folder / f"{name}.png", full_page=True)

    @property
    def overflow(self) -> int:
        """Pixels by which the page is wider than the window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))

    def leave(self) -> None:
        """Nothing was asked of any other machine, and no script failed."""
        assert self.hosts == {"127.0.0.1"} and self.errors == [], (self.hosts, self.errors)
        self.page.close()


@contextmanager
def browsing() -> Iterator[Any]:
    """A headless browser; skips where there is none."""
    pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright")
    if not any(map(shutil.which, take_pictures.BROWSERS)):
        pytest.skip("the browser tests need Chromium")
    with take_pictures.browsing() as browser:
        yield browser
