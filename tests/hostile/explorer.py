"""The explorer under attack: a page in a process of its own, visitors and attackers, and its memory over time.

python -m tests.hostile --explorer --minutes 10
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import httpx

from consistency_lens import BadInput

from .pages import PATIENT, ask, functions

from space_server import serving  # isort: skip

ATTACKERS = 4
EVERY = 30.0  # seconds between two looks at its memory
MB = 1 << 20
HUGE = 300 * MB  # of a body that is sent as far as somebody takes it
WORDS = [f"w{i}" for i in range(90)]


def _upload(url: str, _numbers: dict[str, int], random: Random) -> None:
    """A file, as the page of Gradio would take it."""
    files = {"files": ("x.bin", random.randbytes(random.choice([10, MB])), "application/octet-stream")}
    assert httpx.post(f"{url}/gradio_api/upload", files=files, timeout=PATIENT).status_code in (404, 413)


def _huge(url: str, _numbers: dict[str, int], random: Random) -> None:
    """A body without an announced length, in parts, or with one that is not kept to."""
    sent = 0

    def parts() -> Iterator[bytes]:
        nonlocal sent
        while sent < HUGE:
            sent += MB
            yield b"x" * MB

    said = {"content-length": str(HUGE)} if random.random() < 0.5 else {}
    with suppress(httpx.TransportError):  # hung up on
        answer = httpx.post(f"{url}/gradio_api/queue/join", content=parts(), headers=said, timeout=PATIENT)
        assert answer.status_code in (404, 413), answer.status_code
    assert sent < HUGE, "all of it was taken"


def _odd(url: str, numbers: dict[str, int], random: Random) -> None:
    """Values that no component holds, functions that are not there, sessions that nobody listens to."""
    with suppress(BadInput):
        ask(url, numbers, random)


def _visit(url: str, numbers: dict[str, int], random: Random) -> None:
    """A text, as a visitor sends it: a new session each time, and half of them do not wait for what it says."""
    text = " ".join(random.choices(WORDS, k=random.randint(8, 100)))
    session = f"{random.getrandbits(64):x}"
    asked = {"data": ["some_demo_run", text], "fn_index": numbers["read"], "session_hash": session}
    answer = httpx.post(f"{url}/gradio_api/queue/join", json=asked, timeout=PATIENT)
    assert answer.status_code in (200, 429, 503), answer.text[:300]
    if answer.status_code == 200 and random.random() < 0.5:
        with httpx.stream("GET", f"{url}/gradio_api/queue/data?session_hash={session}", timeout=PATIENT) as events:
            for line in events.iter_lines():
                if "process_completed" in line or "close_stream" in line:
                    break


KINDS: dict[str, Callable[[str, dict[str, int], Random], None]] = {
    "odd requests": _odd,
    "uploads": _upload,
    "bodies of 300 MB": _huge,
    "texts": _visit,
}


class _Attacker(threading.Thread):
    def __init__(self, number: int, url: str, until: float) -> None:
        super().__init__(daemon=True)
        self.random, self.url, self.until = Random(number), url, until
        self.tried: Counter[str] = Counter()
        self.failed: list[str] = []

    def run(self) -> None:
        numbers = functions(self.url)
        while time.monotonic() < self.until:
            name = self.random.choices(list(KINDS), [6, 2, 1, 4])[0]
            self.tried[name] += 1
            try:
                KINDS[name](self.url, numbers, self.random)
            except (AssertionError, httpx.HTTPError) as error:
                self.failed.append(f"{name}: {type(error).__name__}: {str(error)[:300]}")


def memory_of(process: int) -> tuple[float, float]:
    """MB that a process holds now, and has held at most."""
    said = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines() if ":" in line)
    return int(said["VmRSS"].split()[0]) / 1024, int(said["VmHWM"].split()[0]) / 1024


def _process_of(log: Path) -> int:
    """The process that writes this log."""
    for each in Path("/proc").glob("[0-9]*/fd/1"):
        try:
            if each.resolve() == log.resolve():
                return int(each.parts[2])
        except OSError:  # gone again, or somebody else's
            continue
    raise LookupError(f"nobody writes {log}")


def attack(minutes: float) -> int:
    """Attack for so long; prints its memory over time, and returns 1 if anything did not hold."""
    with TemporaryDirectory(prefix="consistency-lens-explorer-") as place, serving(Path(place) / "log") as url:
        url, page = url.rstrip("/"), _process_of(Path(place) / "log")
        began = time.monotonic()
        attackers = [_Attacker(number, url, began + 60 * minutes) for number in range(ATTACKERS)]
        print(f"{'minute':>7} {'requests':>9} {'MB now':>8} {'MB most':>8}", flush=True)
        for attacker in attackers:
            attacker.start()
        while any(attacker.is_alive() for attacker in attackers):
            tried = sum((attacker.tried for attacker in attackers), Counter[str]())
            now, most = memory_of(page)
            print(f"{(time.monotonic() - began) / 60:7.1f} {tried.total():9} {now:8.0f} {most:8.0f}", flush=True)
            end = time.monotonic() + EVERY
            while time.monotonic() < end and any(attacker.is_alive() for attacker in attackers):
                time.sleep(0.2)
        tried = sum((attacker.tried for attacker in attackers), Counter[str]())
        now, most = memory_of(page)
        print(f"{(time.monotonic() - began) / 60:7.1f} {tried.total():9} {now:8.0f} {most:8.0f}")
        print(", ".join(f"{count} {name}" for name, count in tried.most_common()))
        failed = [failure for attacker in attackers for failure in attacker.failed]
        if httpx.get(f"{url}/config", timeout=PATIENT).status_code != 200:
            failed.append("the page does not answer any more")
        log = (Path(place) / "log").stat().st_size
        print(f"log {log / 1024:.0f} kB; failed {len(failed)}")
        print("\n".join(failed[:20]))
        return 1 if failed else 0
