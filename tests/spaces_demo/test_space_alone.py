"""The page as a process of its own: it starts from what was published and no more, and asks nobody for anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from space_runs import TEXT
from test_publish import make_own_subject, take_subject_away, tree

pytest.importorskip("gradio_client", reason="the Space needs the extra 'space'")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
import gradio_client
from hub_client import HubClient, command
from hub_server import Hub
from space_server import serving

pytestmark = pytest.mark.slow

# Run by every Python before anything else: whoever asks for another machine is written down and refused.
WATCH = """
import os, sys

def watch(event, arguments):
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    if host not in (None, "", "localhost", "127.0.0.1", "::1", "0.0.0.0"):
        with open(os.environ["ASKED_FOR"], "a") as file:
            print(event, host, file=file)
        raise ConnectionRefusedError(host)

sys.addaudithook(watch)
"""


def read(url: str, name: str) -> str:
    strip, *_, said = gradio_client.Client(url, verbose=False).predict(name, TEXT, api_name="/read")
    assert "role='alert'" not in said, said
    return str(strip)


def test_the_server_asks_nobody_for_anything_while_it_shows_what_is_here(tmp_path: Path) -> None:
    """Without being told to be offline, as people start it."""
    (tmp_path / "sitecustomize.py").write_text(WATCH)
    asked = tmp_path / "asked.txt"
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    around = {"ASKED_FOR": str(asked), "PYTHONPATH": path, "HF_HUB_OFFLINE": None, "HF_HUB_DISABLE_TELEMETRY": None}
    probe = "import socket; socket.create_connection(('192.0.2.1', 80))"
    tried = subprocess.run([sys.executable, "-c", probe], env=os.environ | {k: v for k, v in around.items() if v})
    assert tried.returncode != 0 and "192.0.2.1" in asked.read_text(), "the watch sees what it should"
    asked.unlink()
    with serving(tmp_path / "log.txt", environment=around) as url:
        client = gradio_client.Client(url, verbose=False)
        strip, *_ = client.predict("some_demo_run", TEXT, api_name="/read")
        assert strip.count("<button") == 8
        assert "At token 3" in client.predict(3, "w9 w8", 2.0, 0.0, 4, 0, api_name="/steer")[0]
        assert "class='verdict'" in client.predict("some_demo_run", api_name="/report")
    assert not asked.exists(), asked.read_text()


def test_a_published_page_starts_in_an_empty_folder_and_reads(online: tuple[Hub, HubClient], tmp_path: Path) -> None:
    server, client = online
    client(make_own_subject, str(tmp_path / "lens"))
    words = ["publish", "--lens", str(tmp_path / "lens"), "--repo_id", "me/standing", "--space", "--use_cpu"]
    code, said = client(command, words)
    assert code == 0, said
    client(take_subject_away)
    home = tmp_path / "space"
    for name, blob in tree(server, "me/standing", "space").items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(blob.data)
    around = client.settings | {"HF_HOME": str(tmp_path / "home"), "PYTHONPATH": None}
    where = "import consistency_lens as c, importlib.metadata as m; print(c.__file__, m.version('consistency-lens'))"
    plain = {k: v for k, v in (os.environ | around).items() if v is not None}
    found = subprocess.run(
        [sys.executable, "-c", where], cwd=home, env=plain, capture_output=True, text=True, check=True
    )
    assert found.stdout.startswith(str(home))
    with serving(tmp_path / "log.txt", home=home, environment=around) as url:
        assert read(url, "me/standing").count("<button") == 8
    assert json.loads((tmp_path / "lens/config.json").read_text())["code_length"] == 5
