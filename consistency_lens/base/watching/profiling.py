"""`Profile`: some steps of a training under torch's profiler, as a trace that TensorBoard and Perfetto open."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function, tensorboard_trace_handler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ...errors import BadInput

logger = logging.getLogger(__name__)
FOLDER = "profile"  # in the run folder


def parse_steps(given: str) -> tuple[int, int]:
    """`10:13` as the first step and the one behind the last."""
    found = re.fullmatch(r"\s*(\d{1,9})\s*:\s*(\d{1,9})\s*", given)
    first, behind = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= first < behind:
        fix = "Write the first step, from 1 on, and the one behind the last, as in 10:13."
        raise BadInput("profile_steps", given, fix)
    return first, behind


class Profile(TrainerCallback):
    """Each process writes a trace of its own: `profile/process-0.<time>.pt.trace.json` in the run folder.

    Args:
        steps: as `parse_steps` takes them, counted from 1.
        folder: of the run.
        process: number of this process.
    """

    def __init__(self, steps: str, folder: Path, process: int) -> None:
        self.first, self.behind = parse_steps(steps)
        self.folder, self.process = folder / FOLDER, process
        self.running: profile | None = None
        self.name: record_function | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step >= self.first:
            logger.warning("profile_steps: nothing is profiled, since the training goes on after step %d", self.first)
        elif self.first > state.max_steps:
            logger.warning("profile_steps: nothing is profiled, since the training ends at step %d", state.max_steps)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        step = state.global_step + 1
        if step == self.first and self.running is None:
            self.start()
        if self.running is not None:
            self.name = record_function(f"ProfilerStep#{step}")  # by this name viewers know a step
            self.name.__enter__()

    def start(self) -> None:
        kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
        written = tensorboard_trace_handler(str(self.folder), worker_name=f"process-{self.process}")
        self.running = profile(activities=kinds, record_shapes=True, on_trace_ready=written)
        self.running.start()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.name is not None:
            self.name.__exit__(None, None, None)
            self.name = None
        if state.global_step + 1 >= self.behind:
            self.end()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.end()

    def end(self) -> None:
        """Write what was recorded, if anything is being recorded."""
        if self.running is not None:
            self.running.stop()
            self.running = None
            logger.info("the profile of steps %d to %d lies in %s", self.first, self.behind - 1, self.folder.name)
