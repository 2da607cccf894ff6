"""Products of float32 matrices in TF32, for the time of a training.

The swap stays exact: a clean pass and one in which A takes its own place go through the same kernels. What is
published is computed after the training, where products are whole again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import TrainingArguments


def wants_tf32(args: TrainingArguments) -> bool:
    """Whether `tf32` was left out and the GPU has it. With `--tf32 true` or `false` transformers sets it for the whole
    process."""
    return args.tf32 is None and args.device.type == "cuda" and has_tf32(args.device)


def has_tf32(device: torch.device) -> bool:
    """Ampere and later."""
    return torch.version.cuda is not None and torch.cuda.get_device_capability(device)[0] >= 8


@contextmanager
def tf32(wanted: bool) -> Iterator[None]:
    """Inside, products are in TF32, if wanted; afterwards as they were."""
    if not wanted:
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
