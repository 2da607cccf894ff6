"""`MeasuringTrainer`: the numbers that a training watches, on rows that it does not learn from."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from datasets import Dataset, IterableDataset
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import TrainerControl

from ...errors import BadInput
from ...frozen import Edit
from ...objectives import recovered
from ..comparing import Applied, apply_lens
from ..engines.engine import in_turn_of_processes
from ..given import numbers_of
from ..robust.memory import evaluating
from ..robust.robust_trainer import RobustTrainer
from .callbacks import MovingAverage
from .cost import Meter

OF_BASELINE = "_of_baseline"


class MeasuringTrainer(RobustTrainer):
    """Evaluates the lens, and its moving average where there is one, with the numbers that training watches."""

    average: MovingAverage | None
    meter: Meter
    control: TrainerControl
    _since: float  # when the speed that is logged next began to count

    @property
    def held_out(self) -> Any:
        """The rows that are looked at while training: of several sets, those of the first."""
        return next(iter(self.eval_dataset.values())) if isinstance(self.eval_dataset, dict) else self.eval_dataset

    def batches(self, rows: int, dataset: Any = None) -> Iterator[dict[str, Any]]:
        """Validation rows, or those of another split, in a fixed order that mixes documents: the same ones at each
        call, in batches of nearly equal size, so that none is left with a single row."""
        dataset = self.held_out if dataset is None else dataset
        looked_at = isinstance(dataset, (Dataset, torch.utils.data.Dataset)) and not isinstance(
            dataset, IterableDataset
        )
        if not looked_at or not len(dataset):
            fix = "Give held-out rows as eval_dataset, or extract with a validation_fraction above 0."
            kind = None if dataset is None else type(dataset).__name__
            raise BadInput("eval_dataset", kind, fix, why="there are no rows to evaluate on")
        held_out: Any = dataset
        order = torch.randperm(len(held_out), generator=torch.Generator().manual_seed(0))[:rows].tolist()
        parts = np.array_split(np.array(order), -(-len(order) // self.args.per_device_eval_batch_size))
        for batch in DataLoader(held_out, batch_sampler=[p.tolist() for p in parts], collate_fn=self.data_collator):
            yield self._prepare_inputs(batch)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """The numbers to watch, on `eval_rows` rows of the validation split, or of `eval_dataset`; of several sets,
        each under its name, and those of the first under the plain names, too: the best checkpoint is chosen by
        them."""
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(rows, Mapping):
            first, *others = rows
            found = self._evaluate_set(rows[first], f"{metric_key_prefix}_{first}", plain=metric_key_prefix)
            for name in others:
                found |= self._evaluate_set(rows[name], f"{metric_key_prefix}_{name}")
            return found
        return self._evaluate_set(eval_dataset, metric_key_prefix)

    def _evaluate_set(self, eval_dataset: Any, prefix: str, plain: str = "") -> dict[str, float]:
        """One set; with `plain` a prefix under which the numbers come once more, for callbacks that choose by them."""
        began = time.monotonic()
        metrics = {f"{prefix}_{name}": value for name, value in self.measure(eval_dataset).items()}
        if self.average:
            with self.average.in_place():
                metrics |= {f"{prefix}_ema_{name}": value for name, value in self.measure(eval_dataset).items()}
        self.log(metrics)
        if plain:
            metrics |= {f"{plain}{name.removeprefix(prefix)}": value for name, value in metrics.items()}
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._since += time.monotonic() - began  # the speed that is logged is that of training
        self.meter.judging += time.monotonic() - began
        return metrics

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """As transformers', which asks for a number that the evaluation may not have."""
        name = str(self.args.metric_for_best_model)
        if self.args.metric_for_best_model is not None and not {name, f"eval_{name}"} & metrics.keys():
            fix = f"Use one of {', '.join(sorted(metrics))}."
            raise BadInput("metric_for_best_model", name, fix, why="no evaluation has such a number")
        return super()._determine_best_metric(metrics, trial)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """A lens predicts no labels."""
        fix = "Use evaluate_lens for a report, lens.compress and lens.explain for codes."
        raise BadInput("predict", type(self.lens).__name__, fix, why="a lens predicts no labels")

    @torch.no_grad()
    def measure(self, dataset: Any = None) -> dict[str, float]:
        """kl_recovered, the same over the horizon, top1, and what else the family measures."""
        with evaluating():
            return self.as_one(lambda: self._measure(dataset))

    def _measure(self, dataset: Any) -> dict[str, float]:
        was_training = self.lens.training
        self.lens.eval()
        # Where each process holds all weights, the batches are dealt out; else all have to make the same passes.
        first, step = (0, 1) if self.engine.spreads_weights else (self.args.process_index, self.args.world_size)
        mine = islice(self.batches(self.args.eval_rows, dataset), first, None, step)
        measured = in_turn_of_processes([self._measure_batch(batch) for batch in mine], step)
        rows = {name: torch.cat([found[name] for found, _ in measured]) for name in measured[0][0]}
        described = [row for _, batch in measured for row in batch]
        means = self.summarise(rows, described)
        if self.compute_metrics is not None:
            means |= numbers_of(self.compute_metrics, rows, described, list(means))
        self.lens.train(was_training)
        return means

    def _measure_batch(self, batch: Mapping[str, Any]) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
        applied = apply_lens(self.lens, self.models, batch, self.args.kl_horizon)
        rows = self.measure_rows(applied, batch)
        return {name: value.float().cpu() for name, value in rows.items()}, self.lens.describe(applied.code)

    def baseline(self, applied: Applied, batch: Mapping[str, Any]) -> list[Edit]:
        """The edits at which `kl_recovered` is 0: what knows nothing of the row, such as the mean activation."""
        raise NotImplementedError

    def measure_rows(self, applied: Applied, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """A value per row under each name: what the lens's edits do and, with `_of_baseline`, what the baseline's do.

        A family adds its own.
        """
        rows = applied.comparison.measure(applied.edits)
        baseline = applied.comparison.measure(self.baseline(applied, batch))
        return rows | {f"{name}{OF_BASELINE}": value for name, value in baseline.items()}

    def summarise(self, rows: Mapping[str, Tensor], described: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """The numbers of an evaluation, from all of its rows."""
        kept = {name: value for name, value in rows.items() if value.dim() == 1 and not name.endswith(OF_BASELINE)}
        means = {name: float(value.nanmean()) for name, value in kept.items()}
        for name in ("kl", "kl_horizon"):
            if name in rows:
                means[f"{name}_recovered"] = float(recovered(rows[name], rows[f"{name}{OF_BASELINE}"]))
        return means
