"""The page and whoever visits it: requests, and the tables of samples that a lens brings along."""

from __future__ import annotations

import json
import uuid
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as parquet
from space_runs import HOSTILE, TEXT, lens, lenses

from consistency_lens import BadInput

from .mutations import VALUES, spoil_bytes

import app  # isort: skip
import guard  # isort: skip
import texts  # isort: skip

PATIENT = 280  # seconds for an answer on a busy machine, less than a case may wait
PATHS = [
    *["queue/join", "queue/join", "queue/join", "call/read", "cancel", "reset", "upload", "run/read", "api/read"],
    *["file=/etc/passwd", "file=../../etc/passwd", "proxy=http://127.0.0.1:1/", "queue/data?session_hash=x", "info"],
    *["stream/x/1/2/playlist.m3u8", "component_server", "heartbeat/x", "../config", "static/../../app.py", "%2e%2e/x"],
]


@cache
def _page() -> tuple[str, dict[str, int]]:
    """Its address, and the numbers of its functions by their names."""
    page = app.build(lenses())
    url = str(app.serve(page, server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)[1]).rstrip("/")
    return url, functions(url)


def functions(url: str) -> dict[str, int]:
    """The functions of a page by their names."""
    found = httpx.get(f"{url}/config", timeout=PATIENT).json()["dependencies"]
    return {each["api_name"]: each["id"] for each in found}


def request(_folder: Path, random: Random) -> str:
    """A request that no browser makes: nothing of this machine is in its answer, and the page goes on."""
    return ask(*_page(), random)


def ask(url: str, numbers: dict[str, int], random: Random) -> str:
    """The same of any page, with the numbers of its functions."""
    path, method = random.choice(PATHS), random.choice(["POST", "POST", "GET", "PUT", "DELETE", "HEAD", "PATCH"])
    values = [HOSTILE, TEXT, "some_demo_run", *(value for value in VALUES if _is_json(value))]
    sent: Any = {
        "data": [random.choice(values) for _ in range(random.randrange(8))],
        "fn_index": random.choice([*numbers.values(), -1, 10**9, "x", None]),
        "session_hash": uuid.UUID(int=random.getrandbits(128)).hex,
        "event_data": random.choice([None, {"index": 1}, HOSTILE]),
        "trigger_id": random.choice([None, 1, "x"]),
    }
    content = json.dumps(sent).encode()
    match random.random():
        case roll if roll < 0.1:
            content = random.randbytes(random.choice([0, 10, 10_000]))
        case roll if roll < 0.2:
            content = content[: random.randrange(len(content))]
        case roll if roll < 0.25:
            content = b"x" * (guard.MOST_BYTES + 1)
    try:
        given: Any = {"content": content, "headers": {"content-type": "application/json"}, "timeout": PATIENT}
        with httpx.stream(method, f"{url}/gradio_api/{path}", **given) as answer:
            said = b"" if "text/event-stream" in answer.headers.get("content-type", "") else answer.read()
    except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError) as error:  # hung up on
        if len(content) <= guard.MOST_BYTES:
            raise
        raise BadInput("request", path, "Send less.", str(error)) from error
    assert b"Traceback" not in said and b"root:x:" not in said and str(Path(app.__file__).parent).encode() not in said
    assert len(content) <= guard.MOST_BYTES or answer.status_code in (404, 413)
    assert httpx.get(f"{url}/config", timeout=PATIENT).status_code == 200
    if answer.status_code >= 400:
        raise BadInput("request", path, "Ask otherwise.", str(answer.status_code))
    return f"{method} {path} {content[:300]!r}: {answer.status_code}"


def _is_json(value: Any) -> bool:
    return not isinstance(value, (int, float)) or abs(value) < 2**64


def samples(folder: Path, random: Random) -> str:
    """A table of samples with other bytes: texts to begin with, or a sentence."""
    path = folder / "samples.parquet"
    rows = pa.table({"context": [f"w1 w{i} ⟦w3⟧" for i in range(200)], "kl": [0.5] * 200})
    parquet.write_table(rows, path, compression=random.choice(["snappy", "none", "zstd", "gzip"]))
    done = spoil_bytes(path, random)
    subject = lens().subject
    assert subject is not None
    found, damage = texts.examples(subject, [folder])
    assert found and all(isinstance(text, str) for text in found) and "\n" not in damage
    if damage:
        raise BadInput("samples.parquet", done, "Take it away.", damage)
    return done
