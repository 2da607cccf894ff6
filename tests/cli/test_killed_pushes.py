"""A whole run that is killed while it pushes, in the middle of a file, before a commit and behind one, and is started
again: the same lens, report and card as undisturbed, here and in a repository that is whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
from extracting import ROOT, random_texts, write_jsonl
from hub_server import TOKEN, Hub, HubServer, Repo, Trouble
from starlette.requests import Request
from starlette.responses import Response
from whole_runs import CLOCKS_OF_A_CARD, ended, require_same, without_clocks, words_to

pytestmark = pytest.mark.slow
REPO = "me/killed"
AT_A_SAVE, AT_THE_END = b"Training in progress", b"Upload a lens"


@dataclass
class Death(Trouble):
    """The client dies of SIGKILL when it asks for this.

    Args:
        body: what has to be in the body of the request too.
        hub: if given, what was asked for is done before; the client never hears of it.
    """

    body: bytes = b""
    hub: Hub | None = None
    client: int = 0

    async def answer(self, request: Request) -> Response | None:
        asked = f"{request.method} {request.url.path}".endswith(self.what) or self.what in request.url.path
        if not self.times or not asked or self.body not in await request.body():
            return None
        self.times -= 1
        if self.times:
            return None
        if self.hub:
            await self.hub.commit(request)
        os.kill(self.client, signal.SIGKILL)
        return None


def push(server: HubServer, place: Path, death: Death | None = None) -> tuple[int, str]:
    """`run_lens.py`, pushing to this server; exit code and what was said."""
    setting = {"HF_ENDPOINT": server.url, "HF_HOME": str(place.parent / "client"), "HF_TOKEN": TOKEN}
    setting |= {"HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    setting |= {name: value for name, value in os.environ.items() if name not in {*setting, "HF_HUB_OFFLINE"}}
    asked = [*words_to(place), "--push_to_hub", "--hub_model_id", REPO, "--hub_strategy", "every_save"]
    place.mkdir(exist_ok=True)
    with (place / "log").open("wb") as log:
        running = subprocess.Popen(
            [sys.executable, ROOT / "run_lens.py", *asked], stdout=log, stderr=subprocess.STDOUT, env=setting
        )
        if death:
            death.client = running.pid
            server.hub.trouble.append(death)
        try:
            code = running.wait(280)
        finally:
            running.kill()
            server.hub.trouble.clear()
    return code, (place / "log").read_text()


def there(server: HubServer) -> Repo:
    return server.hub.repos["model", REPO]


def pushed(server: HubServer) -> dict[str, Any]:
    """All that the repository holds, but what a clock says."""
    found: dict[str, Any] = {}
    repo = there(server)
    for name, blob in repo.commits[repo.heads["main"]].items():
        match Path(name).suffix:
            case ".json":
                said = json.loads(blob.data)
                if name == "training.json":
                    said.pop("cost")  # what was resumed cost more
                found[name] = without_clocks(said)
            case ".md":
                found[name] = CLOCKS_OF_A_CARD.sub("", blob.data.decode())
            case ".png":
                found[name] = None
            case _:
                found[name] = blob.data
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    home = tmp_path_factory.mktemp("pushed")
    write_jsonl(home / "texts.jsonl", random_texts(80, shortest=8, longest=24))
    with HubServer() as server:
        code, said = push(server, home / "once")
        assert code == 0, said
        return home / "once", pushed(server)


def require_whole(server: HubServer, place: Path, undisturbed: tuple[Path, dict[str, Any]]) -> None:
    require_same(place, undisturbed[0])
    found, expected = pushed(server), undisturbed[1]
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == value, name
    lens = ended(place)
    for name in ("model.safetensors", "decoder/model.safetensors", "encoder/model.safetensors"):
        assert found[name] == lens[f"run/lens/{name}"], name
    assert not [*place.rglob("_push-*")], "what lay ready to be sent is gone"


@pytest.mark.parametrize("landed", [False, True])
def test_killed_at_a_save_and_at_the_end(undisturbed: tuple[Path, dict[str, Any]], landed: bool) -> None:
    """In the middle of a file and before the last commit; or behind both commits, of which the run never hears."""
    place = undisturbed[0].with_name(f"killed-{landed}")
    with HubServer() as server:
        behind = server.hub if landed else None
        at_a_save = Death("/commit/main", 0, times=1, body=AT_A_SAVE, hub=behind)
        deaths = [
            at_a_save if landed else Death("/_large/", 0, times=2),
            Death("/commit/main", 0, times=1, body=AT_THE_END, hub=behind),
        ]
        for death in deaths:
            code, said = push(server, place, death)
            assert code == -signal.SIGKILL, f"{death}: {code} {said[-3000:]}"
        code, said = push(server, place)
        assert code == 0, said
        require_whole(server, place, undisturbed)
