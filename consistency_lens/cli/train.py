"""`run_lens.py train`: rows to a lens."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from ..activations import Activations
from ..base.engines import Engine
from ..errors import BadInput
from ..frozen import FrozenLM
from ..hub import require_token
from ..text.arguments import ConsistencyLensArguments
from ..text.modeling import ConsistencyLens
from ..text.trainer import ConsistencyLensTrainer
from .foreseen import too_long
from .opening import require_room
from .parsing import Request
from .progress import Progress
from .run_folder import EMA, HISTORY, LENS, WARM, first_command, keep_wandb_run
from .streaming import require_streamable, streamed

logger = logging.getLogger(__name__)

EXTRAS = {"trackio": "track", "wandb": "track", "tensorboard": "train"}


class KeepWarmStart(TrainerCallback):
    """Saves the lens once more where its warm start ends, if it goes on from there."""

    def __init__(self, trainer: ConsistencyLensTrainer, folder: Path) -> None:
        self.trainer, self.folder = trainer, folder

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step == self.trainer.args.num_warm_steps < state.max_steps:
            self.trainer.save_lens(self.folder)


def require_trainable(request: Request, folder: Path, resumed: Path | None = None) -> Engine:
    """What can be wrong with the arguments together, before anything slow. Returns what spreads the work."""
    require_streamable(request)
    training, patience = training_of(request, folder), request.run.early_stopping_patience
    engine = _engine(request, training, resumed)
    for tracker in training.report_to:
        if tracker in EXTRAS and find_spec(tracker) is None:
            raise BadInput(
                "report_to", tracker, f"Install it with: pip install 'consistency-lens[{EXTRAS[tracker]}]'."
            )
    if training.push_to_hub:
        require_token(training.hub_token)
    if patience is not None and patience < 1:
        raise BadInput("early_stopping_patience", patience, "Wait for one evaluation or more, or leave it out.")
    if patience is not None and (training.eval_strategy == "no" or not training.load_best_model_at_end):
        fix = "Set --eval_strategy steps, --eval_steps N and --load_best_model_at_end too, or leave it out."
        raise BadInput("early_stopping_patience", patience, fix, why="it waits for a better evaluation")
    return engine


def _engine(request: Request, training: ConsistencyLensArguments, resumed: Path | None) -> Engine:
    engine = Engine.of(training)
    if resumed:
        engine.require_same(resumed)
    why = f"under {engine.name} no process holds the weights when the training is over"
    if engine.spreads_weights and request.command == "run":
        raise BadInput("command", request.command, "Run extract, train and evaluate one after the other.", why)
    if engine.spreads_weights and request.run.tail_baseline:
        fix = "Use --tail_baseline false; run_lens.py evaluate judges the lens afterwards, in a process of its own."
        raise BadInput("tail_baseline", True, fix, why)
    return engine


def new_lens(request: Request, frozen: FrozenLM, activations: Activations, site: str) -> ConsistencyLens:
    """An untrained lens; nothing is trained yet, and its first weights depend on the seed alone."""
    require_room(frozen.model.config, frozen.tokenizer, request.lens)
    set_seed(request.values["seed"])
    name = activations.provenance.at(str(frozen.site(site))).sites[0]
    mean, variance = (activations.statistics[f"{name}.{kind}"] for kind in ("mean", "variance"))
    settings = {key: value for key, value in asdict(request.lens).items() if key != "site"}
    norm = float((mean**2 + variance).sum() ** 0.5)
    lens = ConsistencyLens.from_subject(frozen, site, activation_norm=norm, **settings)
    _require_length(lens, frozen, activations)
    return lens


def _require_length(lens: ConsistencyLens, frozen: FrozenLM, activations: Activations) -> None:
    """Raise where the subject cannot read the longest context with a prompt and a text behind it, as judging asks."""
    import pyarrow.compute as pc

    positions = [rows.data.column("position") for rows in activations.splits.values() if len(rows)]
    longest = 1 + max(pc.max(column).as_py() for column in positions)
    asked = len(lens.config.prompt_ids or []) - 2 + lens.config.code_length
    if longest + asked > frozen.max_length:
        rules = activations.metadata["rules"]
        raise too_long(rules["max_length"], longest, asked, frozen.max_length, rules["min_position"])


def train(
    request: Request,
    lens: ConsistencyLens,
    activations: Activations,
    folder: Path,
    resumed: Path | None,
) -> tuple[list[dict[str, Any]], int]:
    """Train to the end, and save: the lens, its moving average, the history. Returns the history, and how many steps
    it took."""
    training = training_of(request, folder)
    if "wandb" in training.report_to:
        keep_wandb_run(folder, str(training.project))
    callbacks: list[Any] = [Progress()]
    if request.run.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(request.run.early_stopping_patience))
    trainer = trainer_of(request, lens, training, activations, callbacks)
    if request.run.keep_warm_start:
        trainer.add_callback(KeepWarmStart(trainer, folder / WARM))
    trainer.command = first_command(folder)
    trainer.train(str(resumed) if resumed else None)
    trainer.save_lens(folder / LENS)
    if trainer.is_world_process_zero():
        trainer.write_card(folder / LENS)
        if trainer.average:
            with trainer.average.in_place():
                lens.save_pretrained(folder / EMA)
            trainer.write_card(folder / EMA, prefix="eval_ema_")
        (folder / HISTORY).write_text(json.dumps(trainer.state.log_history, indent=1) + "\n", encoding="utf-8")
    PartialState().wait_for_everyone()
    return trainer.state.log_history, trainer.state.global_step


def training_of(request: Request, folder: Path, **changes: Any) -> ConsistencyLensArguments:
    """The arguments of a training in this folder."""
    given = {"output_dir": str(folder), "resume_from_checkpoint": None}
    if request.values["run_name"] is None:
        given["run_name"] = folder.name
    if request.values["project"] == "huggingface":  # transformers' own default
        given["project"] = "consistency-lens"
    return request.training(**given | changes)


def trainer_of(
    request: Request,
    lens: ConsistencyLens,
    training: ConsistencyLensArguments,
    activations: Activations,
    callbacks: list[Any],
) -> ConsistencyLensTrainer:
    """A trainer on these rows, or on those that are read meanwhile, with our own progress."""
    assert lens.subject is not None
    trainers: list[ConsistencyLensTrainer] = []
    if request.run.stream_activations:
        activations = streamed(request, activations, lens.subject, lambda read: trainers[0].as_one(read))
    trainer = ConsistencyLensTrainer(lens, training, activations, callbacks=callbacks, frozen=lens.subject)
    trainers.append(trainer)
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    return trainer
