"""The progress of a training: a bar with the loss terms where there is a terminal, lines where there is none."""

from __future__ import annotations

import sys
import time
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

TERMS = ("loss/start", "loss/kl", "loss/mse", "loss/replay", "loss/policy")
SPEEDS = {"samples_per_second": "rows/s", "tokens_per_second": "tokens/s"}
WATCHED = ("kl_recovered", "kl_horizon_recovered", "top1", "fve", "distinct", "text_nll")


class Progress(TrainerCallback):
    """Args:
    title: what is trained, in a few words.
    """

    def __init__(self, title: str = "training") -> None:
        self.title = title
        self.bar: Any = None
        self.began, self.first = time.monotonic(), 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.began, self.first = time.monotonic(), state.global_step
        if state.is_world_process_zero:
            hidden = args.disable_tqdm or not sys.stderr.isatty()
            self.bar = tqdm(
                total=state.max_steps, initial=state.global_step, desc=self.title, unit="step", dynamic_ncols=True,
                disable=hidden,
            )  # fmt: skip

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.bar is not None and not self.bar.disable:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if self.bar is None or not logs or "loss" not in logs:
            return
        terms = "  ".join(f"{n.removeprefix('loss/')} {logs[n]:.3g}" for n in TERMS if logs.get(n))
        speeds = "  ".join(f"{logs[name]:,.0f} {unit}" for name, unit in SPEEDS.items() if name in logs)
        if not self.bar.disable:
            self.bar.set_postfix_str(f"{terms}  {speeds}", refresh=False)
            return
        done, left = state.global_step - self.first, state.max_steps - state.global_step
        eta = (time.monotonic() - self.began) / max(done, 1) * left
        step = f"{self.title} {state.global_step}/{state.max_steps}"
        print(f"{step}  {terms}  {speeds}  {tqdm.format_interval(eta)} left", file=sys.stderr, flush=True)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if self.bar is None or not metrics:
            return
        found = {n: metrics[f"eval_{n}"] for n in WATCHED if f"eval_{n}" in metrics}
        tqdm.write(f"step {state.global_step}  " + "  ".join(f"{n} {v:.3f}" for n, v in found.items()), sys.stderr)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None
