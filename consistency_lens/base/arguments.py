"""`LensTrainingArguments`: what every lens adds to transformers' `TrainingArguments`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from transformers import TrainingArguments

from ..errors import BadInput
from ..options import Formerly, option
from .watching.profiling import parse_steps


@dataclass
class LensTrainingArguments(Formerly, TrainingArguments):
    """Changed defaults, against transformers': `remove_unused_columns=False` (the frozen LM reads all of them),
    `per_device_train_batch_size=32`, `logging_steps=10`, `logging_first_step=True`, `metric_for_best_model=
    "eval_kl_recovered"` (higher is better), `dataloader_drop_last=True` (what is left of an epoch may be a single row,
    which has no partner), `ddp_find_unused_parameters=True` (a stage may train one part alone).
    """

    usual: ClassVar[tuple[str, ...]] = ()  # own options that --help shows; --help_all shows the others, too
    shown_terms: ClassVar[tuple[str, ...]] = ()  # of the loss, on the progress bar; none: all of them
    shown_numbers: ClassVar[tuple[str, ...]] = ("kl_recovered", "top1")  # of an evaluation, in one line

    kl_horizon: int = option(0, "Number of true next positions over which KL is averaged besides P; 0 is P alone.")
    ema_decay: float = option(0.0, "Decay per step of a moving average of the trained weights; 0 keeps none.")
    max_skipped_steps: int = option(
        10, "Number of steps with gradients that are not finite after which training stops."
    )
    eval_rows: int = option(512, "Number of validation rows in an evaluation.")
    sample_steps: int = option(
        0, "Number of steps between two tables of explanations; 0 writes one with each evaluation."
    )
    sample_rows: int = option(128, "Number of held-out rows in that table.")
    profile_steps: str | None = option(
        None,
        "Steps under torch's profiler, from 1 on and as in 10:13 without 13; their trace lies in output_dir/profile. "
        "Default: none.",
    )

    remove_unused_columns: bool = option(
        False, "Columns that the forward pass does not name are removed; a lens needs all of them."
    )
    per_device_train_batch_size: int = option(32, "Batch size: the number of rows per device and step.")
    logging_steps: float = option(10, "Number of steps between two logs.")
    logging_first_step: bool = option(True, "First step is logged, too.")
    metric_for_best_model: str | None = option("eval_kl_recovered", "Metric by which the best checkpoint is chosen.")
    dataloader_drop_last: bool = option(
        True, "Last batch of an epoch is left out where it is smaller: a single row would have no partner."
    )
    ddp_find_unused_parameters: bool | None = option(
        True, "Parameters without a gradient are looked for: a stage may train one part of the lens alone."
    )
    greater_is_better: bool | None = option(True, "Direction of that metric: whether more is better.")

    @property
    def own_engine(self) -> str | None:
        """The name of the way in which a family spreads its weights over processes by itself, where it is to."""
        return None

    def __post_init__(self) -> None:
        if self.kl_horizon < 0:
            raise BadInput("kl_horizon", self.kl_horizon, "Give 0 for P alone, or a number of further positions.")
        if not 0 <= self.ema_decay < 1:
            raise BadInput("ema_decay", self.ema_decay, "Give a number from 0 (no average) to below 1, such as 0.99.")
        least = {"eval_rows": 2, "sample_rows": 1, "sample_steps": 0, "max_skipped_steps": 0}
        least |= {"per_device_train_batch_size": 2, "per_device_eval_batch_size": 2, "gradient_accumulation_steps": 1}
        for name, lowest in least.items():
            if vars(self)[name] < lowest:
                raise BadInput(name, vars(self)[name], f"Use {lowest} or more.")
        unused = {"remove_unused_columns": "a lens needs all columns", "label_smoothing_factor": "there are no labels"}
        unused |= {"neftune_noise_alpha": "a lens reads activations, and no embedded tokens"}
        for name, why in unused.items():
            if vars(self)[name]:
                raise BadInput(name, vars(self)[name], "Leave it out.", why)
        if self.profile_steps is not None:
            parse_steps(self.profile_steps)
        if self.metric_for_best_model in ("loss", "eval_loss"):
            fix = "Use eval_kl_recovered, or another number of an evaluation."
            raise BadInput("metric_for_best_model", self.metric_for_best_model, fix, why="no evaluation has a loss")
        if self.learning_rate < 0:
            raise BadInput("learning_rate", self.learning_rate, "Use a rate above 0.")
        super().__post_init__()
        if self.device.type == "cpu":
            self.dataloader_pin_memory = False  # there is nothing to copy to, and torch would warn

    def stages(self, max_steps: int) -> list[tuple[str, int]]:
        """Stretches of a training before its main one: title and the step that ends it, each with a bar of its own."""
        return []

    def learning_rate_of(self, part: str) -> float:
        """Of one part of the lens; families that offer several override it."""
        return self.learning_rate
