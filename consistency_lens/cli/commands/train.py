"""`run_lens.py train`: data to a lens, for whatever family."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback

from ...base.engines.engine import Engine
from ...base.family_run import Run
from ...base.modeling import LensModel
from ...base.trainer import LensTrainer
from ...base.watching.threads import ChooseThreads
from ...errors import BadInput
from ...frozen import FrozenLM
from ...hub import require_token
from ..opening import console
from ..parsing.request import Request
from ..progress import Progress
from ..run_folder import EMA, HISTORY, LENS, first_command, keep_wandb_run
from ..streaming import require_streamable, streamed
from ..threads import is_free
from .report import model_for_another

EXTRAS = {"trackio": "track", "wandb": "track", "tensorboard": "train"}


class CommandRun(Run):
    """A run of the command line, as its family sees it."""

    def __init__(self, request: Request, folder: Path, resumed: Path | None) -> None:
        self.request, self.folder, self.resumed = request, folder, resumed
        self.values: Mapping[str, Any] = request.values

    def training(self, place: Path, **changes: Any) -> Any:
        return training_of(self.request, place, **changes)

    def trainer(self, lens: LensModel, training: Any, data: Any, title: str = "training") -> LensTrainer:
        """With our own progress; on the run's data, or on what is read from the corpus meanwhile."""
        assert lens.subject is not None
        trainers: list[LensTrainer] = []
        if self.request.run.stream_activations:
            data = streamed(self.request, data, lens.subject, lambda read: trainers[0].as_one(read))
        kind = self.request.options.trainer
        trainer = kind(lens, training, data, callbacks=[Progress(title)], frozen=lens.models)
        trainers.append(trainer)
        trainer.remove_callback(ProgressCallback)
        trainer.remove_callback(PrinterCallback)
        on_cpu, processes = trainer.args.device.type == "cpu", trainer.args.world_size
        if is_free(self.request.run.cpu_threads, os.environ, on_cpu, processes):
            trainer.add_callback(ChooseThreads(torch.get_num_threads(), trainer.note))
        return trainer

    def model_for_another(self, lens: LensModel) -> FrozenLM:
        return model_for_another(lens, self.request)

    def say(self, text: str) -> None:
        console.print(text, highlight=False)


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


def _engine(request: Request, training: Any, resumed: Path | None) -> Engine:
    engine = Engine.of(training)
    if resumed:
        engine.require_same(resumed)
    if engine.spreads_weights and request.command == "run":
        why = f"under {engine.name} no process holds the weights when the training is over"
        raise BadInput("command", request.command, "Run extract, train and evaluate one after the other.", why)
    request.family.require_engine(engine)
    return engine


def train(run: CommandRun, lens: LensModel, data: Any) -> tuple[list[dict[str, Any]], int]:
    """Train to the end, and save: the lens, its moving average, the history. Returns the history, and how many steps
    it took."""
    request, folder = run.request, run.folder
    training = run.training(folder)
    if "wandb" in training.report_to:
        keep_wandb_run(folder, str(training.project))
    trainer = run.trainer(lens, training, data)
    if request.run.early_stopping_patience is not None:
        trainer.add_callback(EarlyStoppingCallback(request.run.early_stopping_patience))
    for callback in request.family.callbacks(trainer, folder):
        trainer.add_callback(callback)
    trainer.command = first_command(folder)
    trainer.train(str(run.resumed) if run.resumed else None)
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


def training_of(request: Request, folder: Path, **changes: Any) -> Any:
    """The arguments of a training in this folder."""
    given = {"output_dir": str(folder), "resume_from_checkpoint": None}
    if request.values["run_name"] is None:
        given["run_name"] = folder.name
    if request.values["project"] == "huggingface":  # transformers' own default
        given["project"] = "consistency-lens"
    return request.training(**given | changes)
