"""A process in which the Hub is on. In the tests' own it is off from the start, and its client reads that once."""

from __future__ import annotations

import io
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# As pytest has them; a package is imported through the folder that it lies in.
_FOLDERS = [
    folder for folder in (ROOT / "tests").iterdir() if folder.is_dir() and not (folder / "__init__.py").exists()
]
TESTS = [str(ROOT / "tests"), *map(str, _FOLDERS)]


class HubClient:
    """`client(act, *arguments)` calls a function of a test file over there, and gives back what it returns or raises.

    Args:
        url: of the Hub.
        home: for cache and tokens.
        environment: further variables; None takes one away.
    """

    def __init__(self, url: str, home: Path, **environment: str | None) -> None:
        settings = {"HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_OFFLINE": None, "HF_HUB_DISABLE_XET": "1"}
        settings |= {"no_proxy": "127.0.0.1,localhost", "OMP_NUM_THREADS": "1"}
        self.home, self.settings = home, settings | environment
        self.pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _begin, (self.settings, TESTS))

    def __call__(self, act: Callable[..., Any], *arguments: Any) -> Any:
        with _environment(self.settings):  # the process is started by the first call
            future = self.pool.submit(act, *arguments)
        return future.result(timeout=300)

    def close(self) -> None:
        self.pool.shutdown()


def _begin(settings: dict[str, str | None], paths: Sequence[str]) -> None:
    os.environ |= {name: value for name, value in settings.items() if value is not None}
    sys.path[:0] = [path for path in paths if path not in sys.path]
    import torch

    torch.set_num_threads(1)


@contextmanager
def _environment(settings: dict[str, str | None]) -> Iterator[None]:
    before = dict(os.environ)
    for name, value in settings.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def command(words: Sequence[str], folder: str | None = None, **environment: str | None) -> tuple[int, str]:
    """`run_lens.py words...`, in the process that this is called in: exit code, and what it printed."""
    from consistency_lens.cli import main

    said = io.StringIO()
    here = os.getcwd()
    if folder is not None:
        os.chdir(folder)
    try:
        with _environment(environment), redirect_stdout(said), redirect_stderr(said):
            code = main(words)
    finally:
        os.chdir(here)
    return code, said.getvalue()
