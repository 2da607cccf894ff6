"""Something done in two real processes that know of each other (gloo)."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from typing import Any

from torch.distributed import TCPStore


def in_two_processes(act: Callable[..., None], *args: Any) -> None:
    """Call `act(rank, *args)` in each, and wait for both."""
    # The store of all is here, on a port that it found itself: both processes join it, as under torchrun.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_begin, args=(rank, store.port, act, args)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(400)
        assert process.exitcode is not None, "it hangs"


def _begin(rank: int, port: int, act: Callable[..., None], args: tuple[Any, ...]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    os.environ |= {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }  # or accelerate shares out the cores
    import torch

    torch.set_num_threads(1)
    act(rank, *args)
    torch.distributed.destroy_process_group()
