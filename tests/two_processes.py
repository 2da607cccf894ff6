"""Something done in two real processes that know of each other (gloo)."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from typing import Any


def in_two_processes(act: Callable[..., None], *args: Any) -> None:
    """Call `act(rank, *args)` in each, and wait for both."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_begin, args=(rank, port, act, args)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(400)
        assert process.exitcode is not None, "it hangs"


def _begin(rank: int, port: int, act: Callable[..., None], args: tuple[Any, ...]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    import torch

    torch.set_num_threads(1)
    act(rank, *args)
    torch.distributed.destroy_process_group()
