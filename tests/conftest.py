"""What every test stands on: no network, a cache folder of its own, one thread, no progress bars."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before anything imports huggingface_hub, which reads these once.
# With `pytest -n`, the workers inherit the folder: the offline model is trained once for all of them.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _HOME = tempfile.TemporaryDirectory(prefix="consistency-lens-tests-", ignore_cleanup_errors=True)
    os.environ |= {"HF_HOME": _HOME.name, "TRACKIO_DIR": f"{_HOME.name}/trackio"}
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
os.environ |= {"HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
os.environ |= {"NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}  # servers here are on loopback
# What a machine may have set: caches that win over HF_HOME, somebody's token, another Hub, a lens for the Space.
for name in (
    *("HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_ASSETS_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE"),
    *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_ENDPOINT", "LENS", "SPACE_ID"),
    *("GRADIO_SERVER_NAME", "GRADIO_SERVER_PORT", "WANDB_API_KEY", "WANDB_MODE"),
):
    os.environ.pop(name, None)

import pytest  # noqa: E402
import torch  # noqa: E402
from tiny import TINY_CONFIGS, shared_lm  # noqa: E402
from transformers.utils import logging as transformers_logging  # noqa: E402

from consistency_lens.frozen import FrozenLM  # noqa: E402

torch.set_num_threads(1)
transformers_logging.disable_progress_bar()


@pytest.fixture(scope="session")
def subject_folder() -> Path:
    """The offline model as users have it, trained once for all slow tests (minutes) in the tests' own cache."""
    from consistency_lens.demo.subject import subject_path

    return subject_path(progress=False)


@pytest.fixture(params=TINY_CONFIGS)
def any_lm(request: pytest.FixtureRequest) -> FrozenLM:
    """Each architecture in turn, with and without sliding windows; shared, so not to be changed."""
    return shared_lm(request.param)


@pytest.fixture
def lm() -> FrozenLM:
    """A llama; shared, so not to be changed."""
    return shared_lm("llama")


@pytest.fixture(scope="session")
def _online(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    pytest.importorskip("starlette")
    pytest.importorskip("uvicorn")
    from hub_client import HubClient
    from hub_server import TOKEN, HubServer

    with HubServer() as server:
        client = HubClient(server.url, tmp_path_factory.mktemp("client"), HF_TOKEN=TOKEN)
        yield server.hub, client
        client.close()


@pytest.fixture
def online(_online: Any) -> Iterator[Any]:
    """A Hub on loopback, empty at first, and a process whose client uses it; its troubles end with the test."""
    hub, client = _online
    hub.repos.clear()
    yield hub, client
    hub.trouble.clear()
