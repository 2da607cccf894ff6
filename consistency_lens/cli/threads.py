"""How many CPU cores a process uses: `accelerate launch` gives each one, and leaves the others of a laptop idle."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

import torch

from ..errors import BadInput

# What accelerate's launcher leaves in the environment of all that it starts.
_LAUNCHED = "ACCELERATE_MIXED_PRECISION"


def use_cores(asked: int | None, on_cpu: bool, processes: int) -> None:
    """Set the number of torch's threads: the one that was given, or one that makes sense."""
    wanted = threads_for(asked, os.environ, cores(), on_cpu, processes)
    if wanted is not None:
        torch.set_num_threads(wanted)


def cores() -> int:
    """That this process may run on; only Linux says which those are."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def is_free(asked: int | None, environment: Mapping[str, str], on_cpu: bool, processes: int) -> bool:
    """Nobody said how many threads there are, so that a training may choose; arguments as of `threads_for`."""
    named = "OMP_NUM_THREADS" in environment and not _by_default(environment)
    return on_cpu and processes == 1 and asked is None and not named and torch.get_num_threads() > 1


def _by_default(environment: Mapping[str, str]) -> bool:
    return _LAUNCHED in environment and environment.get("OMP_NUM_THREADS") == "1"


def threads_for(
    asked: int | None, environment: Mapping[str, str], cores: int, on_cpu: bool, processes: int
) -> int | None:
    """
    Args:
        asked: `cpu_threads`.
        environment: of the process.
        cores: that it may run on.
        on_cpu: it computes there.
        processes: of the run.

    Returns:
        How many threads, or None to leave them as they are: several processes share the cores already, a GPU does the
        work, or `OMP_NUM_THREADS` says how many. accelerate's launcher makes 1 of that if nobody has said it, which
        cannot be told from a 1 that was meant: who wants one thread there says so by `cpu_threads`.
    """
    if asked is not None:
        if asked < 1:
            raise BadInput("cpu_threads", asked, "Use 1 or more.")
        return asked
    return cores if on_cpu and processes == 1 and _by_default(environment) else None
