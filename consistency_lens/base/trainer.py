"""`LensTrainer`: what training any lens needs beyond transformers' `Trainer`.

It places the frozen LM, weighs and logs terms, keeps bad gradients out, evaluates, and saves and restores all parts.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakSet

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import EvalPrediction, TrainerCallback, TrainerControl, set_seed
from transformers.trainer_utils import SaveStrategy

from ..errors import BadInput
from ..frozen import FrozenLM, FrozenModels
from ..schedules import Schedule
from .arguments import LensTrainingArguments
from .engines.engine import Engine, mean_over_processes
from .given import require_held_out, require_names, require_new, require_only, require_together
from .modeling import LensModel
from .precision import tf32, wants_tf32
from .robust.memory import FirstWeights
from .saving.checkpoint import checkpoints, find_checkpoint, save_batch
from .saving.lens_card import CARD, TrainingRecord, settings_of, setup_of, watched, write_lens_card
from .saving.lens_files import load_files
from .training_data import TrainingData
from .watching.callbacks import MovingAverage, accelerator_load
from .watching.cost import Cost, Meter
from .watching.measuring import MeasuringTrainer
from .watching.overall import mean_loss
from .watching.profiling import Profile
from .watching.samples import SampleTable
from .watching.stopping import PatienceKept

logger = logging.getLogger(__name__)


class LensTrainer(MeasuringTrainer):
    """A subclass gives `compute_loss`, `open_data` and `weigh`: the equation, its data, the weight of each of its
    terms.

    The names are those of transformers' `Trainer`; `frozen` comes beside them.

    Args:
        model: the lens that is trained.
        args: the arguments of the run.
        train_dataset: the family's data (for words, `Activations`), the path of a folder of it, or rows that somebody
            made: a `DatasetDict`, a `Dataset` or an `IterableDataset`, as `Activations.from_dataset` takes them.
            Checked against the frozen model, and the frozen model against the lens, first.
        eval_dataset: held-out rows, or several sets of them by name. Default: the validation split, if there is one.
        data_collator: makes batches of rows. Default: the family's.
        compute_metrics: numbers of your own, from an `EvalPrediction` whose `predictions` are a dict of arrays with an
            entry per row (`kl`, `kl_of_baseline`, `top1`, ...) and the `explanation` of each code.
        callbacks: as for `Trainer`.
        optimizers: an optimizer and a scheduler of your own, in the place of the trainer's.
        model_init: makes a lens, of a trial if it takes one, anew for each training; in the place of `model`.
        frozen: the frozen model that edits are made to, or several by name; they stay out of everything that is saved.
    """

    loss_is_scaled_for_ga = False  # compute_loss returns a mean over the rows
    args: LensTrainingArguments
    optimizer: torch.optim.Optimizer | None
    control: TrainerControl

    def __init__(
        self,
        model: LensModel | None = None,
        args: LensTrainingArguments | None = None,
        train_dataset: Any = None,
        eval_dataset: Dataset | Mapping[str, Dataset] | None = None,
        data_collator: Callable[[Any], dict[str, Any]] | None = None,
        compute_metrics: Callable[[EvalPrediction], Mapping[str, float]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        model_init: Callable[..., LensModel] | None = None,
        *,
        frozen: FrozenLM | Sequence[FrozenLM] | Mapping[str, FrozenLM] | None = None,
        **other: Any,
    ) -> None:
        require_names(type(self).__name__, model, args, frozen, model_init, other)
        assert args is not None and frozen is not None
        self.model_init = model_init
        if model is None:
            set_seed(args.seed)
            model = super().call_model_init()
        self._made = WeakSet([model])
        lens: LensModel = model
        self.models = FrozenModels.of(frozen)
        lens.config.require_subject(self.models)
        require_only(lens, self.models)
        self.lens, self.frozen = lens, self.models.first
        self.data = self.open_data(train_dataset, eval_dataset, args)
        require_held_out(args, self.data.held_out)
        self.schedules = self.weigh(args)
        require_together(args, model_init, optimizers, Engine.of(args))
        placed = self.place(args)
        self.cost_before = Cost()  # up to the checkpoint that a training goes on from
        self.meter = Meter(args.device, args.world_size, self.engine.readers)
        self.begin()
        # For the card. Sizes are those of whole tensors, before they are spread over processes.
        self.sizes = {name: sum(p.numel() for p in part.values()) for name, part in lens.parts().items()}
        self.command, self.earlier_card = "", Path(args.output_dir) / CARD
        super().__init__(
            model=placed,
            args=args,
            data_collator=self.data.collate if data_collator is None else data_collator,
            train_dataset=self.data.train,
            eval_dataset=self.data.held_out,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        self.model_init = model_init
        sets = self.data.held_out
        self.add_callback(PatienceKept(self.callback_handler, next(iter(sets)) if isinstance(sets, Mapping) else ""))
        self.require_engine()
        self.can_return_loss = True
        self.label_names: list[str] = []
        self.average = MovingAverage(self.trainable, args.ema_decay) if args.ema_decay else None
        if self.average:
            self.add_callback(self.average)
        self.table = SampleTable(lens, self.models, self.batches, self.as_one, self.silent)
        if self.eval_dataset is not None:
            self.add_callback(self.table)
        if args.profile_steps is not None:
            self.add_callback(Profile(args.profile_steps, Path(args.output_dir), args.process_index))
        self.take_up()

    def open_data(self, given: Any, eval_dataset: Any, args: Any) -> TrainingData:
        """Open what the trainer was given, checked against `self.lens` and `self.frozen`.

        Args:
            given: the family's data, a path of it, or rows that somebody made.
            eval_dataset: held-out rows, several sets of them by name, or None for those that the data brings.
            args: of the run.
        """
        raise NotImplementedError

    def take_up(self) -> None:
        """What a family does with a lens before it is trained."""

    def call_model_init(self, trial: Any = None) -> LensModel:
        """Another lens in the place of the one before; transformers asks for it as each training begins."""
        sites = self.lens.config.sites
        self.lens.unload()
        self.lens = super().call_model_init(trial)
        require_new(self.lens, self._made)
        self.lens.config.require_subject(self.models)
        require_only(self.lens, self.models)
        if self.lens.config.sites != sites:
            fix = f"Let it make lenses of {', '.join(sites or [])}: the rows and their mean stay."
            raise BadInput("model_init", ", ".join(self.lens.config.sites or []), fix, why="a lens of another site")
        self.schedules = self.weigh(self.args)
        self.sizes = {name: sum(p.numel() for p in part.values()) for name, part in self.lens.parts().items()}
        self.table.lens = self.lens
        if self.average:
            self.average.parameters = self.trainable
            self.average.reset()
        self.take_up()
        return self.lens

    def hyperparameter_search(self, *args: Any, **kwargs: Any) -> Any:
        """As transformers', where a `model_init` makes the lens of each trial; its trials save nothing."""
        if self.model_init is None:
            fix = "Make the trainer with model_init, a function that makes a lens, in the place of model."
            raise BadInput("model_init", None, fix, why="each trial begins with a lens of its own")
        if self.args.save_strategy != SaveStrategy.NO:
            fix = "Search with save_strategy='no', and train with what was found."
            raise BadInput("save_strategy", self.args.save_strategy.value, fix, why="all trials share the run folder")
        return super().hyperparameter_search(*args, **kwargs)

    def begin(self) -> None:
        self.micro_step = 0  # batches of this step that came before the present one, with gradient accumulation
        self._notes: dict[str, tuple[Tensor | float, int]] = {}
        self._seen: list[Tensor | int] = [0, 0]  # rows and tokens since the last log
        self._since = time.monotonic()
        self.meter.begin(self.cost_before)

    @property
    def skipped_steps(self) -> int:
        """Over all starts of this training."""
        return self.meter.skipped

    def begin_again(self, first: FirstWeights, resumed: Path | None) -> None:
        super().begin_again(first, resumed)
        if self.average and not resumed:
            self.average.reset()

    @property
    def trainable(self) -> dict[str, nn.Parameter]:
        """All that the lens may train, by name, whatever stage froze it for now."""
        return {name: p for part in self.lens.parts().values() for name, p in part.items()}

    def weigh(self, args: Any) -> Mapping[str, Schedule]:
        """Term -> schedule of its weight."""
        raise NotImplementedError

    # ---- the loss

    def settle(self, terms: Mapping[str, Tensor]) -> Tensor:
        """sum of weight(step) * mean(term); every term, unweighted, and its weight are logged under their names."""
        total = torch.zeros((), device=self.args.device)
        for name, term in terms.items():
            weight = self.weight_of(name)
            total = total + weight * term.mean()
            self.note(f"loss/{name}", term.detach().mean())
            self.note(f"weight/{name}", weight)
        return total

    def weight_of(self, term: str) -> float:
        """The present weight of a term: its schedule's, unless the family has another rule."""
        return self.schedules[term](self.state.global_step)

    def note(self, name: str, value: Tensor | float) -> None:
        """Something to log: its mean over the times it was noted since the last log."""
        total, count = self._notes.get(name, (0.0, 0))
        self._notes[name] = (total + value, count + 1)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._notes:
            names = sorted(self._notes)
            means = torch.tensor([float(total) / count for total, count in map(self._notes.__getitem__, names)])
            means = mean_over_processes(means.to(self.args.device, torch.float32))
            logs |= dict(zip(names, means.tolist(), strict=True))
            elapsed = max(time.monotonic() - self._since, 1e-9)
            rows, tokens = (float(seen) * self.engine.readers / elapsed for seen in self._seen)
            logs |= {"samples_per_second": rows, "tokens_per_second": tokens}
            logs |= {"skipped_steps": float(self.skipped_steps), **accelerator_load()}
            self._notes, self._seen, self._since = {}, [0, 0], time.monotonic()
        logs.pop("train_loss", None)  # transformers' mean at the end, over what came after the last resume alone
        super().log(logs, start_time)

    # ---- gradients

    def size_of(self, inputs: Mapping[str, Any]) -> tuple[int, Tensor]:
        """Rows and tokens of a batch; the tokens stay on their device, so that nothing waits for them."""
        return len(inputs["input_ids"]), inputs["attention_mask"].sum()

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        rows, tokens = self.size_of(inputs)
        self._seen = [self._seen[0] + rows, self._seen[1] + tokens]
        self.meter.see(rows, tokens)
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.micro_step += 1
        if self.accelerator.sync_gradients:
            self.micro_step = 0
            self._look_at_gradients(inputs)
        return loss

    def _look_at_gradients(self, inputs: Mapping[str, Any]) -> None:
        """Log a norm per part; take back a step whose gradients are not finite."""
        norms = self.gradient_norms(self.lens.parts())
        for part, norm in norms.items():
            self.note(f"grad_norm/{part}", norm.nan_to_num(posinf=0.0))
        # With fp16 the scaler does the skipping. All norms at once: each look waits for the device.
        if self.accelerator.scaler is not None or not norms or bool(torch.stack([*norms.values()]).isfinite().all()):
            return
        self.model.zero_grad(set_to_none=True)
        self.meter.skipped += 1
        if self.average:
            self.average.skips = True
        if self.skipped_steps > self.args.max_skipped_steps:
            path = self.run_folder / f"bad_batch-{self.state.global_step}-{self.args.process_index}.safetensors"
            save_batch(inputs, path)
            raise BadInput(
                "max_skipped_steps",
                self.args.max_skipped_steps,
                f"Lower the learning rates or max_grad_norm; the last batch is in {path.name} of the run folder"
                + (", beside those of the other processes." if self.args.world_size > 1 else "."),
                why=f"the gradients of {self.skipped_steps} steps were not finite, in the parts {sorted(norms)}",
            )

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """As transformers', with the learning rate of each part."""
        if self.optimizer is None:
            decayed = set(self.get_decay_parameter_names(self.lens))
            groups = []
            for part, parameters in self.lens.parts().items():
                for decays in (True, False):
                    mine = [p for name, p in parameters.items() if (name in decayed) is decays]
                    if self.engine.is_deepspeed:  # it takes no group in which nothing is trained
                        mine = [p for p in mine if p.requires_grad]
                    decay = self.args.weight_decay if decays else 0.0
                    if mine:
                        rate = self.args.learning_rate_of(part)
                        groups.append({"params": mine, "weight_decay": decay, "lr": rate, "part": part})
            cls, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = cls(groups, **options)
        return self.optimizer

    # ---- save and resume

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """All parts of the lens, and the averages beside them. The arguments as JSON: nothing here is a pickle."""
        if not (self.args.should_save or self.engine.spreads_weights):  # transformers calls this in every process
            return
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self.save_lens(folder)
        if not self.args.should_save:
            return
        (folder / "training_args.json").write_text(json.dumps(self.args.to_sanitized_dict(), indent=2, default=str))
        if self.average:
            self.average.save(folder)
        self.write_card(folder)

    def write_card(self, folder: Path, prefix: str = "eval_") -> None:
        """What is known by now, as a card in this folder and in that of the run, whose hand-written words it keeps.

        Args:
            folder: of a lens.
            prefix: of the numbers that were logged for it.
        """
        run, record = Path(self.args.output_dir), self.record(prefix)
        if prefix == "eval_":
            write_lens_card(run, self.lens.config, record, self.earlier_card)
        if folder != run:
            write_lens_card(folder, self.lens.config, record, run / CARD)

    def record(self, prefix: str = "eval_") -> TrainingRecord:
        """How the lens came about, up to this step."""
        if isinstance(self.eval_dataset, dict):
            prefix = f"{prefix}{next(iter(self.eval_dataset))}_"
        rows: Any = self.held_out if self.held_out is not None else self.data.train
        return TrainingRecord(
            name=self.hub_model_id or Path(self.args.output_dir).resolve().name,
            step=self.state.global_step,
            max_steps=self.state.max_steps,
            setup=setup_of(self.args, self.state.max_steps),
            settings=settings_of(self.args),
            sizes=self.sizes,
            cost=self.meter.cost,
            history=watched(self.state.log_history, prefix, self.lens.config.card.watched),
            watched_rows=min(self.args.eval_rows, len(rows)),
            example=self.data.example(),
            command=self.command,
        ).about(self.data.metadata)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """The card of the run, which transformers asks for when it pushes."""
        if self.is_world_process_zero():
            write_lens_card(Path(self.args.output_dir), self.lens.config, self.record(), self.earlier_card)

    def train(self, resume_from_checkpoint: str | os.PathLike[str] | bool | None = None, **kwargs: Any) -> Any:
        """As transformers'; with True, from the newest checkpoint that is whole. Those on the Hub have names as in
        `last-checkpoint`, `owner/name`, `owner/name/checkpoint-40`."""
        if resume_from_checkpoint is True:
            whole = checkpoints(Path(self.args.output_dir))
            if not whole:
                fix = "Start again without resume_from_checkpoint."
                raise BadInput("resume_from_checkpoint", True, fix, why="there is no whole checkpoint in output_dir")
            resume_from_checkpoint = str(whole[-1])
        self.cost_before = Cost()
        if isinstance(resume_from_checkpoint, (str, os.PathLike)):
            on_hub = (self.args.hub_model_id, self.args.hub_revision, self.args.hub_token)
            resume_from_checkpoint = str(find_checkpoint(str(resume_from_checkpoint), *on_hub))
            self.require_resumable(Path(resume_from_checkpoint))
            earlier = TrainingRecord.load(resume_from_checkpoint)
            self.cost_before = earlier.cost if earlier else Cost(partial=True)
            self.earlier_card = Path(resume_from_checkpoint) / CARD
        with tf32(wants_tf32(self.args)):
            output = super().train(resume_from_checkpoint, **kwargs)
        loss = mean_loss(self.state.log_history, output.training_loss)
        return output._replace(training_loss=loss, metrics={**output.metrics, "train_loss": loss})

    def _run_epoch(self, **kwargs: Any) -> None:
        """As transformers', which takes one more step where a training goes on from its end, early or not."""
        if self.state.global_step >= self.state.max_steps or self.control.should_training_stop:
            self.control.should_training_stop = True
            return
        super()._run_epoch(**kwargs)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        load_files(self.lens.files(), folder)
        self.load_beside(folder)

    def load_beside(self, folder: Path) -> None:
        if self.average:
            self.average.load(folder)

    def _load_best_model(self) -> None:
        assert self.state.best_model_checkpoint is not None
        if not Path(self.state.best_model_checkpoint).is_dir():
            logger.warning("the best checkpoint lies on another machine: the lens stays as it is after the last step")
            return
        self._load_from_checkpoint(self.state.best_model_checkpoint)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: transformers would count the lens alone, and not the passes of the frozen model."""
        return 0
