"""Memory for large batches, taken again once nobody holds it: to ask for it anew takes longer than a gather."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor


class Buffers:
    """Uninitialised tensors. On a CPU they lie in a few arrays that take turns; a GPU's allocator does that itself.

    Args:
        most: arrays that are kept; whoever holds more tensors than that at a time gets ordinary ones.
    """

    def __init__(self, most: int = 4) -> None:
        self.most = most
        self.arrays: list[Array] = []

    def empty(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """A tensor of this kind; what is in it is arbitrary."""
        size = prod(shape) * dtype.itemsize
        if device.type != "cpu" or size == 0:
            return torch.empty(*shape, dtype=dtype, device=device)
        self.arrays = [array for array in self.arrays if array.in_use or len(array.memory) >= size]
        free = [array for array in self.arrays if not array.in_use]
        if not free and len(self.arrays) >= self.most:
            return torch.empty(*shape, dtype=dtype, device=device)
        if not free:
            free = [Array(size)]
            self.arrays += free
        return free[0].tensor(size).view(dtype).view(*shape)

    def __reduce__(self) -> tuple[type[Buffers], tuple[int]]:
        return Buffers, (self.most,)


class Array:
    """Memory in which one tensor at a time lives. It keeps a handle, as does every view of it, which goes with them.

    Args:
        size: bytes of the first tensor. A quarter more is asked for, since the next may be larger; memory that nobody
            has touched takes no room.
    """

    def __init__(self, size: int) -> None:
        self.memory = np.empty(size + size // 4, np.uint8)
        self.handle: weakref.ref[np.ndarray] | None = None

    @property
    def in_use(self) -> bool:
        return self.handle is not None and self.handle() is not None

    def tensor(self, size: int) -> Tensor:
        """The first bytes of the memory."""
        part = self.memory[:size]
        self.handle = weakref.ref(part)
        return torch.from_numpy(part)
