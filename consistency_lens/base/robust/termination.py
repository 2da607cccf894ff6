"""A training that gets SIGTERM, as a preempted job does, saves before it ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from accelerate import PartialState
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..engines.engine import any_process

CODE = 128 + signal.SIGTERM  # as the shell has it


class Terminated(SystemExit):
    """A training got SIGTERM, has saved, and leaves; the exit code is 143."""


class Termination(TrainerCallback):
    """On SIGTERM in any process all of them finish the step they are at, save, and leave together."""

    def __init__(self) -> None:
        self.asked = self.ends = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Inside, SIGTERM is a request. Signals come to the main thread alone: elsewhere nothing changes."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self.asked = self.ends = False
        before = signal.signal(signal.SIGTERM, self._ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)

    def _ask(self, *_: Any) -> None:
        self.asked = True

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.ends = any_process(self.asked, args.device)
        if self.ends:
            control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.ends:
            PartialState().wait_for_everyone()
            raise Terminated(CODE)
