"""Processes that work on one job each. One that dies takes its own job with it, and no other."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any


class Workers:
    """
    Args:
        count: of processes.
        begin: what each does once, before its first job.
        given: to `begin`.
    """

    def __init__(self, count: int, begin: Callable[..., None] | None = None, *given: Any) -> None:
        self.begin, self.given = begin, given
        self.idle = [self._new() for _ in range(count)]
        self.running: dict[Future[Any], tuple[Any, ProcessPoolExecutor]] = {}

    def _new(self) -> ProcessPoolExecutor:
        # A pool of one: of a larger one, all jobs are lost with one process.
        return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), self.begin, self.given)

    def start(self, job: Any, work: Callable[..., Any], *given: Any) -> None:
        """On a worker that is idle; there has to be one."""
        pool = self.idle.pop()
        self.running[pool.submit(work, *given)] = job, pool

    def finished(self) -> Iterator[tuple[Any, BaseException | None]]:
        """Wait for a job, or several; yields each, and what went wrong."""
        for future in wait(self.running, return_when=FIRST_COMPLETED).done:
            job, pool = self.running.pop(future)
            error = future.exception()
            if isinstance(error, BrokenProcessPool):
                pool.shutdown()
                pool = self._new()
            self.idle.append(pool)
            yield job, error

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        for pool in (*self.idle, *(pool for _, pool in self.running.values())):
            pool.shutdown()
