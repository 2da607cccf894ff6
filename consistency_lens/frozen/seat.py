"""`Seat`: the one place on a device that several frozen models take in turn; the others wait in the CPU's memory."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..errors import BadInput


class Seat:
    """
    Args:
        device: where a model lies while it is in use.
    """

    def __init__(self, device: str | torch.device) -> None:
        self.device, self.changes = torch.device(device), 0
        self._model: PreTrainedModel | None = None
        self._waiting: list[tuple[Tensor, Tensor]] = []  # of the model that is there: its tensors, their copies

    def take(self, model: PreTrainedModel) -> None:
        """Put a model there, and the one before it back. Weights that are never trained need no way back: their copies
        on the CPU are still right."""
        if self._model is model:
            return
        for tensor, copy in self._waiting:
            tensor.data = copy
        self._waiting = [(tensor, tensor.data) for tensor in chain(model.parameters(), model.buffers())]
        for tensor, copy in self._waiting:
            tensor.data = copy.to(self.device, copy=True)
        self._model = model
        self.changes += 1


def require_movable(model: PreTrainedModel, name: str, quantization: str) -> None:
    """Raise where a model cannot lie on the CPU and move from there as plain tensors."""
    places = {parameter.device.type for parameter in model.parameters()}
    if quantization != "none" or places != {"cpu"}:
        found = quantization if quantization != "none" else ", ".join(sorted(places))
        fix = "Load it unquantised and onto the CPU: FrozenLM.from_pretrained(..., device_map=None)."
        raise BadInput("sequential", name, fix, why=f"its weights are {found}")
