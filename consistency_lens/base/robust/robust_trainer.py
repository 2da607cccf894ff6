"""`RobustTrainer`: a training goes on, or stops with a message and nothing lost, when what it runs on fails."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn
from transformers import set_seed

from ...errors import BadInput, is_full_disk
from ..saving.checkpoint import how_to_go_on, is_complete, keep_in_order
from ..saving.pushing import PushingTrainer
from .memory import FirstWeights, MemoryStillShort
from .termination import Termination
from .trackers import guarded

logger = logging.getLogger(__name__)


class RobustTrainer(PushingTrainer):
    """What goes wrong round a training: a full disk, a clock that is set back, a worker that dies, a tracker that
    cannot be reached, a machine that is wanted elsewhere, a batch that memory does not hold."""

    first: FirstWeights | None = None  # of this call of `train`, where it may take several attempts
    short: RuntimeError | None = None  # of memory, in the last attempt
    saved: list[Path]  # in the present one
    optimizer: Any
    micro_step: int

    @property
    def trainable(self) -> Mapping[str, nn.Parameter]:
        raise NotImplementedError

    @property
    def run_folder(self) -> Path:
        return Path(self.args.output_dir)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.termination = Termination()
        self.add_callback(self.termination)
        self.silent: set[str] = set()  # trackers that could not be reached
        callbacks, report_to = self.callback_handler.callbacks, list(self.args.report_to)
        self.callback_handler.callbacks = guarded(callbacks, report_to, self.silent)

    # ---- a full disk, a clock that is set back

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = self.run_folder / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            keep_in_order(folder)
        self.saved.append(folder)
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, SafetensorError, RuntimeError) as error:
            if not is_full_disk(error):
                raise
            if not is_complete(folder):  # what was begun takes room, and nobody can go on from it
                shutil.rmtree(folder, ignore_errors=True)
            fix = f"Free some space, or keep fewer checkpoints (save_total_limit). {how_to_go_on(self.run_folder)}"
            raise BadInput("output_dir", str(self.run_folder), fix, f"no room left to write {folder.name}") from error

    # ---- a batch that memory does not hold

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        self.first, self.saved, self.short = None, [], None
        try:
            with self.termination.listening():
                return super().train(resume_from_checkpoint, **kwargs)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):  # torch says so from within a signal, wherever that comes
                raise
            fix = f"Use fewer of them, or 0, if the machine is short of memory. {how_to_go_on(self.run_folder)}"
            raise BadInput(
                "dataloader_num_workers", self.args.dataloader_num_workers, fix, why=str(error).splitlines()[0]
            ) from error

    def _inner_training_loop(
        self, batch_size: int | None = None, args: Any = None, resume_from_checkpoint: str | None = None, **kwargs: Any
    ) -> Any:
        """One attempt; with `auto_find_batch_size` another one, with fewer rows, begins where the first one began."""
        given: dict[str, Any] = {"args": args, "resume_from_checkpoint": resume_from_checkpoint, **kwargs}
        self.begin()
        if not self.args.auto_find_batch_size:
            return super()._inner_training_loop(batch_size, **given)
        if self.first is None:
            self.first = FirstWeights(self.trainable)
        else:
            self.begin_again(self.first, Path(resume_from_checkpoint) if resume_from_checkpoint else None)
            if batch_size is None or batch_size < 2:
                raise MemoryStillShort(str(self.short), "with batches of 2 rows, and fewer cannot be paired")
            logger.warning("out of memory: beginning again with batches of %d rows", batch_size)
        try:
            return super()._inner_training_loop(batch_size, **given)
        except RuntimeError as error:
            self.short = error
            raise

    def begin(self) -> None:
        """All counts are at their beginning."""
        self.micro_step = 0

    def begin_again(self, first: FirstWeights, resumed: Path | None) -> None:
        """As if the attempt before had not been: its weights, optimizer, checkpoints and noise are gone."""
        first.restore(self.trainable)
        self.optimizer = None
        for folder in self.saved:
            shutil.rmtree(folder, ignore_errors=True)
        self.saved = []
        set_seed(self.args.seed)
        if resumed:
            self.load_beside(resumed)
