"""`RobustTrainer`: a training goes on, or stops with a message and nothing lost, when what it runs on fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from .checkpoint import keep_in_order
from .pushing import PushingTrainer


class RobustTrainer(PushingTrainer):
    """What goes wrong round a training: a clock that is set back."""

    @property
    def run_folder(self) -> Path:
        return Path(self.args.output_dir)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = self.run_folder / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            keep_in_order(folder)
        super()._save_checkpoint(model, trial)
