"""The progress of a training: a bar with the loss terms where there is a terminal, lines where there is none."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

SPEEDS = {"samples_per_second": "rows/s", "tokens_per_second": "tokens/s"}


def speed(number: float) -> str:
    """Whole numbers, but below ten two digits: a large model on a CPU takes seconds for a row."""
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


@dataclass
class Stage:
    """A stretch of a training with a title and an end of its own.

    Args:
        title: in a few words.
        first, end: the steps of the whole training that it is made of.
        since: a step that this process took, and when it was done.
    """

    title: str
    first: int
    end: int
    since: tuple[int, float] | None = None

    @property
    def total(self) -> int:
        return self.end - self.first

    def see(self, step: int) -> None:
        """A step was taken. The clock starts behind the first one, which waits for texts, caches and compilers."""
        if self.since is None:
            self.since = step, time.monotonic()

    def seconds_left(self, step: int) -> float | None:
        """None as long as nothing is known."""
        if self.since is None or step == self.since[0]:
            return None
        first, began = self.since
        return (time.monotonic() - began) / (step - first) * (self.end - step)


class Progress(TrainerCallback):
    """The warm start and what follows it, each with a total and an ETA of its own: their steps take different times.

    Args:
        title: what is trained, in a few words.
    """

    def __init__(self, title: str = "training") -> None:
        self.title = title
        self.bar: Any = None
        self.stage = Stage(title, 0, 0)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.enter(args, state)

    def enter(self, args: Any, state: TrainerState) -> None:
        """The stage of the present step."""
        first = 0
        for title, end in args.stages(state.max_steps):
            if state.global_step < end:
                title = title if self.title == "training" else f"{self.title}, {title}"
                self.stage = Stage(title, first, end)
                break
            first = end
        else:
            self.stage = Stage(self.title, first, state.max_steps)
        if not state.is_world_process_zero:
            return
        if self.bar is not None:
            self.bar.close()
        self.bar = tqdm(
            total=self.stage.total, initial=state.global_step - self.stage.first, desc=self.stage.title, unit="step",
            dynamic_ncols=True, disable=args.disable_tqdm or not sys.stderr.isatty(),
        )  # fmt: skip

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step == self.stage.end < state.max_steps:
            self.enter(args, state)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.stage.see(state.global_step)
        if self.bar is not None and not self.bar.disable:
            self.bar.update(state.global_step - self.stage.first - self.bar.n)

    def on_log(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if self.bar is None or not logs or "loss" not in logs:
            return
        losses = {n.removeprefix("loss/"): value for n, value in logs.items() if n.startswith("loss/") and value}
        shown = [n for n in args.shown_terms or losses if n in losses]
        terms = "  ".join(f"{n} {losses[n]:.3g}" for n in shown)
        speeds = "  ".join(f"{speed(logs[name])} {unit}" for name, unit in SPEEDS.items() if name in logs)
        if not self.bar.disable:
            self.bar.set_postfix_str(f"{terms}  {speeds}", refresh=False)
            return
        stage, step = self.stage, state.global_step
        done = f"{stage.title} {step - stage.first}/{stage.total}"
        seconds = stage.seconds_left(step)
        left = "" if seconds is None else f"  {tqdm.format_interval(seconds)} left"
        print(f"{done}  {terms}  {speeds}{left}", file=sys.stderr, flush=True)

    def on_evaluate(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if self.bar is None or not metrics:
            return
        found = {n: metrics[f"eval_{n}"] for n in args.shown_numbers if f"eval_{n}" in metrics}
        tqdm.write(f"step {state.global_step}  " + "  ".join(f"{n} {v:.3f}" for n, v in found.items()), sys.stderr)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None
