"""What runs beside the training: the moving average of what is trained."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ...errors import BadInput
from ..saving.lens_files import require_fitting

logger = logging.getLogger(__name__)


class MovingAverage(TrainerCallback):
    """A dict of averages of the trainable tensors, and of nothing else: frozen weights are in no average.

    Args:
        parameters: name -> tensor, of all that may be trained.
        decay: `average = decay * average + (1 - decay) * value` after each step.
    """

    FILE = "ema.safetensors"

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.parameters, self.decay = parameters, decay
        self.skips = False  # the present step is not taken
        self.reset()

    def reset(self) -> None:
        """Begin with the parameters as they are."""
        self.averages: dict[str, Tensor] = {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.skips or kwargs["optimizer"].step_was_skipped:
            self.skips = False
            return
        for name, parameter in self.parameters.items():
            # Early on, what was before the first steps would weigh too much.
            decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
            self.averages[name].lerp_(parameter.detach().to(self.averages[name]), 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the averages stand where the parameters were."""
        with swapped(self.parameters, self.averages):
            yield

    def save(self, folder: Path) -> None:
        save_file({name: tensor.contiguous() for name, tensor in self.averages.items()}, folder / self.FILE)

    def load(self, folder: Path) -> None:
        if not (folder / self.FILE).is_file():
            fix = "Resume with the ema_decay that the run began with."
            raise BadInput("ema_decay", self.decay, fix, why=f"{folder.name} holds no averages")
        found = load_file(folder / self.FILE)
        require_fitting(found, self.averages, folder, self.FILE)
        for name, tensor in found.items():
            self.averages[name].copy_(tensor)


@contextmanager
def swapped(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, these values stand where the parameters were."""
    own = {name: parameters[name].data for name in values}
    try:
        for name, value in values.items():
            parameters[name].data = value
        yield
    finally:
        for name, tensor in own.items():
            parameters[name].data = tensor


def accelerator_load() -> dict[str, float]:
    """Peak memory of the GPU, and how busy it is where that can be asked; nothing without one."""
    if not torch.cuda.is_available():
        return {}
    found = {"gpu_memory_gb": torch.cuda.max_memory_allocated() / 1e9}
    if _can_ask_how_busy():
        found["gpu_utilization"] = float(torch.cuda.utilization())
    return found


@cache
def _can_ask_how_busy() -> bool:
    """Said once: a training logs often."""
    if find_spec("pynvml") is None:
        logger.info("gpu_utilization is not logged: pip install 'consistency-lens[track]' brings what is asked for it")
        return False
    return True
