"""How many CPU threads a training takes: all cores on a quiet machine, one beside other work.

The threads of a step wait for each other many times. Where another process takes one of the cores for a moment, all of
them wait, so that small steps become ten times slower; one thread alone loses only its own share.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

logger = logging.getLogger(__name__)

NAME = "cpu_threads"  # in the log
FAR_APART = 2.0  # so many times slower in one step: no second one is needed
SLOWER = 1.5  # times what steps took when they were compared: the machine has changed
RECENT = 8  # steps whose median is compared with that
FIRST_WAIT, LONGEST_WAIT = 50, 400  # steps until the other number is tried again; twice as many each time


class ThreadChoice:
    """Steps are timed with all cores and with one thread, and go on with the faster; again when they become slower,
    and now and then, since a busy machine may have become quiet.

    Args:
        cores: that the process may run on.
        start: the number of threads before anything is known.
    """

    def __init__(self, cores: int, start: int | None = None) -> None:
        self.cores = cores
        self.chosen = cores if start is None else start
        self.recent: deque[float] = deque(maxlen=RECENT)
        self.reference = self.since = 0.0
        self.wait = FIRST_WAIT
        self.skip()

    def skip(self) -> None:
        """Leave the next step out, which waits for compilers and caches, and compare in those that follow."""
        self.trials: list[int] = []
        self.times: dict[int, list[float]] = {}
        self.skipped = False

    @property
    def other(self) -> int:
        return 1 if self.chosen == self.cores else self.cores

    @property
    def next(self) -> int:
        """The number of threads of the next step."""
        return self.trials[0] if self.trials else self.chosen

    def compare(self) -> None:
        self.trials, self.times = [self.chosen, self.other, self.other, self.chosen], {}

    def took(self, seconds: float) -> None:
        """The step with `next` threads took so long."""
        if not self.skipped:
            self.skipped = True
            self.compare()
        elif self.trials:
            self.times.setdefault(self.trials.pop(0), []).append(seconds)
            if not self.trials or self._is_clear():
                self._choose()
        else:
            self.recent.append(seconds)
            self.since += 1
            slower = len(self.recent) == RECENT and median(self.recent) > SLOWER * self.reference
            if slower or self.since >= self.wait:
                self.compare()

    def _is_clear(self) -> bool:
        """Both were tried, and one is far slower."""
        if len(self.times) < 2:
            return False
        fast, slow = sorted(min(times) for times in self.times.values())
        return slow > FAR_APART * fast

    def _choose(self) -> None:
        best = min(self.times, key=lambda threads: sum(self.times[threads]) / len(self.times[threads]))
        self.wait = min(2 * self.wait, LONGEST_WAIT) if best == self.chosen else FIRST_WAIT
        self.chosen, self.trials, self.since = best, [], 0
        self.reference = sum(self.times[best]) / len(self.times[best])
        self.recent.clear()


class ChooseThreads(TrainerCallback):
    """Sets the number of torch's threads for each step, and logs it as `cpu_threads`; sums come out different in their
    last bits when it changes. A resumed training begins with the number that the log has last.

    Args:
        cores: that the process may run on.
        note: the trainer's.
    """

    def __init__(
        self, cores: int, note: Callable[[str, float], None], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.choice, self.note, self.clock = ThreadChoice(cores), note, clock
        self.stage = ""
        self.began = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        logged = [entry[NAME] for entry in state.log_history if NAME in entry]
        self.choice = ThreadChoice(self.choice.cores, 1 if logged and logged[-1] == 1 else None)

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        stage = next((title for title, end in args.stages(state.max_steps) if state.global_step < end), "")
        if stage != self.stage:  # other steps, which take other times
            self.stage = stage
            self.choice.skip()
        torch.set_num_threads(self.choice.next)
        self.began = self.clock()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        before = self.choice.chosen
        self.note(NAME, float(self.choice.next))
        self.choice.took(self.clock() - self.began)
        torch.set_num_threads(self.choice.chosen)  # of evaluations, and of what comes behind the training
        if self.choice.chosen != before:
            logger.info("step %d: %d CPU threads from here on", state.global_step, self.choice.chosen)
