"""Trackers that cannot be reached: a training does not depend on who watches it."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

logger = logging.getLogger(__name__)


def errors_of(tracker: str) -> tuple[type[Exception], ...]:
    """What it may raise that is no fault of the training."""
    found: tuple[type[Exception], ...] = (OSError, RuntimeError, ValueError, sqlite3.Error)
    if tracker == "wandb":
        import wandb

        return (*found, wandb.Error)
    if tracker == "trackio":
        import httpx

        return (*found, httpx.HTTPError)
    return found


@contextmanager
def tolerating(tracker: str, silent: set[str]) -> Iterator[None]:
    """Inside, an error of a tracker is logged once, and nothing more is sent to it."""
    try:
        yield
    except errors_of(tracker) as error:
        silent.add(tracker)
        line = f"{type(error).__name__}: {error}".splitlines()[0]
        logger.warning("%s gets no more of this run (%s); the training goes on, and keeps its own log", tracker, line)


class Tracker(TrainerCallback):
    """A tracker's callback, as long as nothing goes wrong with it.

    Args:
        name: as in `report_to`.
        callback: transformers' own.
        silent: names of those that get nothing more.
    """

    def __init__(self, name: str, callback: TrainerCallback, silent: set[str]) -> None:
        self.name, self.callback, self.silent = name, callback, silent

    def _tell(self, event: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        if self.name not in self.silent:
            with tolerating(self.name, self.silent):
                event(*args, **kwargs)

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self._tell(self.callback.on_train_begin, *args, **kwargs)

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self._tell(self.callback.on_step_end, *args, **kwargs)

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        self._tell(self.callback.on_log, *args, **kwargs)

    def on_evaluate(self, *args: Any, **kwargs: Any) -> None:
        self._tell(self.callback.on_evaluate, *args, **kwargs)

    def on_save(self, *args: Any, **kwargs: Any) -> None:
        self._tell(self.callback.on_save, *args, **kwargs)

    def on_push_begin(self, *args: Any, **kwargs: Any) -> None:
        self._tell(self.callback.on_push_begin, *args, **kwargs)

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self._tell(self.callback.on_train_end, *args, **kwargs)


def guarded(callbacks: list[TrainerCallback], report_to: list[str], silent: set[str]) -> list[TrainerCallback]:
    """The same callbacks; those of trackers may fail."""
    names = {INTEGRATION_TO_CALLBACK[name]: name for name in report_to}
    return [Tracker(names[type(each)], each, silent) if type(each) in names else each for each in callbacks]
