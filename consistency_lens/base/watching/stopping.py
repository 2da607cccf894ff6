"""Early stopping that a resumed training goes on with: how long nothing got better is read off the log."""

from __future__ import annotations

import math
import operator
from typing import Any

from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class PatienceKept(TrainerCallback):
    """Gives every `EarlyStoppingCallback` of a trainer, as a training begins, the count that it had at the checkpoint;
    transformers begins at zero, and trains on where a run had stopped.

    Args:
        handler: of the trainer's callbacks.
        first: the name of the first of several sets that are evaluated on; its numbers are logged under it.
    """

    def __init__(self, handler: Any, first: str = "") -> None:
        self.handler, self.first = handler, first

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for callback in self.handler.callbacks:
            if isinstance(callback, EarlyStoppingCallback):
                count = _waited(callback, args, state, self.first)
                callback.early_stopping_patience_counter = count
                if count >= callback.early_stopping_patience:
                    control.should_training_stop = True


def _waited(callback: EarlyStoppingCallback, args: TrainingArguments, state: TrainerState, first: str) -> int:
    """How many evaluations in a row were no better than the best one before them."""
    name = str(args.metric_for_best_model)
    name = f"eval_{first}_{name.removeprefix('eval_')}" if first else f"eval_{name.removeprefix('eval_')}"
    better = operator.gt if args.greater_is_better else operator.lt
    threshold = callback.early_stopping_threshold or 0.0
    best, count = None, 0
    for value in (entry[name] for entry in state.log_history if name in entry):
        gets_better = best is None or (better(value, best) and abs(value - best) > threshold)
        count = 0 if gets_better else count + 1
        best = (-math.inf if args.greater_is_better else math.inf) if best is None else best
        best = value if better(value, best) else best
    return count
