"""Many visitors at once, on loopback: nobody meets an error, and how long each had to wait is printed.

By default they come for a few seconds, as many as SPACE_LOAD_USERS says; for a minute of them:

SPACE_LOAD_SECONDS=60 pytest -s -m slow tests/spaces_demo/test_space_load.py
"""

from __future__ import annotations

import os
import random
import statistics
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from space_server import serving

gradio_client = pytest.importorskip("gradio_client", reason="the Space needs the extra 'space'")

USERS = int(os.environ.get("SPACE_LOAD_USERS", "50"))
SECONDS = float(os.environ.get("SPACE_LOAD_SECONDS", "10"))
LENS = os.environ.get("SPACE_LOAD_LENS", "")  # another lens than the tiny one, with the folder of its frozen model
SUBJECT = os.environ.get("SPACE_LOAD_SUBJECT", "")
WORDS = os.environ.get("SPACE_LOAD_WORDS", "").split() or [f"w{i}" for i in range(90)]
PAUSE = (1.0, 4.0)  # seconds in which people look at what they got
PATIENCE = 120.0  # seconds: slowness is for the figures to show, not an error


class User(threading.Thread):
    """Reads texts, opens tokens, edits one now and then."""

    def __init__(self, number: int, url: str, begin: threading.Event) -> None:
        super().__init__(daemon=True)
        self.random, self.begin = random.Random(number), begin
        self.client = gradio_client.Client(url, verbose=False, httpx_kwargs={"timeout": PATIENCE})
        self.took: dict[str, list[float]] = defaultdict(list)
        self.wrong: list[str] = []

    def run(self) -> None:
        self.begin.wait()
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            length = self.random.randint(8, 60)
            text = " ".join(self.random.choices(WORDS, k=length))
            with self._timed("read"):
                strip, *_, said = self.client.predict(self._lens(), text, api_name="/read")
            if strip.count("<button") != length or "role='alert'" in said:
                self.wrong.append(f"read: {said}")
            position = self.random.randint(1, length)
            with self._timed("open"):
                near, said = self.client.predict(position, api_name="/open")
            if f"Token {position}:" not in near or "role='alert'" in said:
                self.wrong.append(f"open: {said}")
            if self.random.random() < 0.3:
                words = " ".join(self.random.choices(WORDS, k=3))
                with self._timed("steer"):
                    html, said = self.client.predict(position, words, 2.0, 0.0, 8, 0, api_name="/steer")
                if f"At token {position}" not in html:
                    self.wrong.append(f"steer: {said}")

    def _lens(self) -> str:
        return Path(LENS).name if LENS else "some_demo_run"

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.took[what].append(time.monotonic() - start)
        time.sleep(self.random.uniform(*PAUSE))


@pytest.mark.slow
def test_fifty_visitors_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failed: list[str] = []
    before = threading.excepthook
    threading.excepthook = lambda problem: failed.append(repr(problem.exc_value))
    try:
        with serving(tmp_path / "log.txt", *(("--lens", LENS, "--subject", SUBJECT) if LENS else ())) as url:
            begin = threading.Event()
            users = [User(number, url, begin) for number in range(USERS)]
            for user in users:
                user.start()
            begin.set()
            for user in users:
                user.join(SECONDS + 300)
                assert not user.is_alive(), "a visitor is still waiting"
    finally:
        threading.excepthook = before
    found = {what: sorted(t for user in users for t in user.took[what]) for what in ("read", "open", "steer")}
    with capsys.disabled():
        answers = sum(map(len, found.values()))
        print(f"\n{USERS} visitors, {SECONDS:g} s, {answers} answers; seconds to the whole answer:")
        for what, took in found.items():
            cuts = statistics.quantiles(took, n=100) if len(took) > 1 else took * 99
            shares = ", ".join(f"{name} {cuts[i]:.2f}" for name, i in (("50 %", 49), ("95 %", 94), ("99 %", 98)))
            print(f"{what:>6}: {len(took):4} answers, {shares}, longest {max(took, default=0):.2f}")
    assert failed == [] and Counter(wrong for user in users for wrong in user.wrong) == {}
    assert all(user.took["read"] for user in users), "somebody was never served"
    assert "Traceback" not in (tmp_path / "log.txt").read_text()
