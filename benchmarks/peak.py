"""Peak memory of a piece of work, measured in a process of its own.

On the CPU it is resident memory as the kernel counts it (Linux): its largest value during the work, minus what was
resident when the work began. On a GPU it is what torch allocated at most, minus what it held at the beginning.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass
class Peak:
    """Megabytes at most, above those at the beginning; filled in when the `with` body ends."""

    mb: float = 0.0


@contextmanager
def peak_of(device: str | torch.device) -> Iterator[Peak]:
    """Inside, memory is watched. Of one such block inside another, the outer one sees what comes last."""
    found = Peak()
    before = held(device)
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield found
        found.mb = torch.cuda.max_memory_allocated(device) / 1e6 - before
        return
    # The high-water mark starts again: what building the models took for a moment is no part of the work.
    Path("/proc/self/clear_refs").write_text("5", "ascii")
    yield found
    found.mb = _resident("VmHWM") / 1e6 - before


def held(device: str | torch.device) -> float:
    """Megabytes that are held now."""
    if torch.device(device).type == "cuda":
        return torch.cuda.memory_allocated(device) / 1e6
    return _resident("VmRSS") / 1e6


def alone(work: Callable[..., Any], *given: Any) -> Any:
    """`work(*given)` in a fresh process; both have to be importable and picklable.

    There the allocator gives large blocks back as soon as they are free, so that its own thrift is not measured.
    """
    os.environ |= {"MALLOC_MMAP_THRESHOLD_": str(2**17), "MALLOC_TRIM_THRESHOLD_": str(2**17)}  # only new ones look
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *given).result()


def _resident(field: str) -> float:
    """Bytes. Not `getrusage`: its peak takes over that of the process which started this one."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return 1024 * float(next(line.split()[1] for line in lines if line.startswith(field)))
