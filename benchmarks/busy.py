"""Training steps on a quiet and on a busy machine: with all cores, with one thread, and as the training chooses.

    python benchmarks/busy.py                       # on a machine with nothing else to do: a few minutes
    python benchmarks/busy.py --size gpt2 --rows 4 --steps 12

A busy machine has one other process per core that never waits. Each way is a training in a process of its own; the
ways take turns, so that all see the same machine. The first step is not counted.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch
from harness import arguments, report, show
from random_runs import SITE, random_rows, trainer_of
from sizes import SIZES, random_lm
from transformers import TrainerCallback

from consistency_lens.base.watching.threads import ChooseThreads
from consistency_lens.text.modeling import ConsistencyLens

WAYS = ("all cores", "one thread", "chosen")


class Clock(TrainerCallback):
    """Seconds of each step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *given: Any, **kwargs: Any) -> None:
        self.began = time.perf_counter()

    def on_step_end(self, *given: Any, **kwargs: Any) -> None:
        self.seconds.append(time.perf_counter() - self.began)


def seconds_of(way: str, options: argparse.Namespace) -> None:
    """In a process of its own: train, and print the seconds of a step in the mean."""
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(1 if way == "one thread" else cores)
    frozen = random_lm(options.size, 2 * options.context)
    rows = random_rows(frozen, options.rows, options.context, 4)
    lens = ConsistencyLens.from_subject(frozen, str(frozen.site(SITE)), code_length=options.length)
    trainer = trainer_of(lens, frozen, rows, rollouts=2, kl_horizon=4)
    trainer.args.max_steps = options.steps + 1
    clock = Clock()
    trainer.add_callback(clock)
    if way == "chosen":
        trainer.add_callback(ChooseThreads(cores, trainer.note))
    trainer.train()
    print("seconds", sum(clock.seconds[1:]) / options.steps)


@contextmanager
def competitors(count: int) -> Iterator[None]:
    processes = [multiprocessing.Process(target=_never_wait, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()


def _never_wait() -> None:
    while True:
        pass


def new_parser() -> argparse.ArgumentParser:
    parser = arguments(__doc__)
    parser.add_argument("--size", choices=SIZES, default="pilot")
    parser.add_argument("--rows", type=int, default=16, help="of a step (default: 16)")
    parser.add_argument("--context", type=int, default=32, help="tokens of a context (default: 32)")
    parser.add_argument("--length", type=int, default=8, help="words of a text (default: 8)")
    parser.add_argument("--steps", type=int, default=60, help="counted, of each training (default: 60)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    return parser


def main() -> None:
    options = new_parser().parse_args()
    if options.way:
        seconds_of(options.way, options)
        return
    found = []
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    words = [f"--{name}={vars(options)[name]}" for name in ("size", "rows", "context", "length", "steps")]
    for others in (0, len(os.sched_getaffinity(0))):
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        with competitors(others):
            for _ in range(options.rounds):
                for way in WAYS:
                    command = [sys.executable, __file__, f"--way={way}", *words]
                    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
                    seconds[way].append(float(done.stdout.split()[-1]))
        best = min(median(times) for times in seconds.values())
        found += [
            {
                "others": others,
                "way": way,
                "ms a step": 1e3 * median(times),
                "times the best": median(times) / best,
                "least": 1e3 * min(times),
                "most": 1e3 * max(times),
            }
            for way, times in seconds.items()
        ]
    show(f"Steps of {options.size}, {options.rows} rows", list(found[0]), [[*row.values()] for row in found])
    report(options.json, "cpu", {k: v for k, v in vars(options).items() if k != "json"}, found)


if __name__ == "__main__":
    main()
