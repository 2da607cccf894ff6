"""Out of memory in the midst of a training: whose fault it was, and how to begin again with a smaller batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn


class MemoryStillShort(torch.OutOfMemoryError):
    """No memory where a smaller batch does not help. (accelerate tries again after an error with one argument.)

    Args:
        message: of the device.
        where: what was being done.
    """

    def __init__(self, message: str, where: str) -> None:
        super().__init__(message, where)
        self.message, self.where = message, where

    def __str__(self) -> str:
        return f"{self.message} ({self.where})"


class MemoryShortInEvaluation(MemoryStillShort):
    """It was an evaluation that had no memory: batches of the training are not to blame."""

    def __init__(self, message: str, where: str = "in an evaluation") -> None:
        super().__init__(message, where)


@contextmanager
def evaluating() -> Iterator[None]:
    """Inside, lack of memory is that of an evaluation."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryShortInEvaluation(str(error)) from error


class FirstWeights:
    """What was trainable when a training began, and its values, so that another attempt begins with the same.

    Args:
        parameters: name -> tensor, of all that may be trained.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self.values = {name: p.detach().cpu().clone() for name, p in parameters.items()}
        self.flags = {name: p.requires_grad for name, p in parameters.items()}

    @torch.no_grad()
    def restore(self, parameters: Mapping[str, nn.Parameter]) -> None:
        for name, parameter in parameters.items():
            parameter.copy_(self.values[name])
            parameter.requires_grad_(self.flags[name])
            parameter.grad = None
