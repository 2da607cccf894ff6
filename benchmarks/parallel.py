"""Data parallel training: processes of one thread each against one process of one thread.

    python benchmarks/parallel.py                        # two processes (gloo) on a CPU with two idle cores
    python benchmarks/parallel.py --processes 4 --rounds 5

Every process has the same rows per step, so N of them do N times the work. Efficiency is the time of a step alone
over the time of a step together: 1 would mean that exchanging gradients costs nothing, and that cores do not get into
each other's way. Both kinds of run take turns; timed are steps of the trainer, optimizer included, but for the first
ones. On a machine that does something else, the figure says nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from harness import arguments, report, show
from random_runs import SITE, random_rows
from sizes import SIZES, random_lm
from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from consistency_lens.text.arguments import ConsistencyLensArguments
from consistency_lens.text.modeling import ConsistencyLens
from consistency_lens.text.trainer import ConsistencyLensTrainer

SKIPPED = 2  # first steps, which make what is kept


class Clock(TrainerCallback):
    """Seconds of each step, from its first batch to the optimizer."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.begun = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.begun = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds.append(time.perf_counter() - self.begun)


def train(options: argparse.Namespace, path: Path) -> None:
    """In each process of a run: train for a few steps; the first process writes how long they took."""
    torch.set_num_threads(1)
    frozen = random_lm(options.size, 2 * options.context)
    steps = SKIPPED + options.steps
    rows = random_rows(frozen, options.rows * options.processes * steps, options.context, options.horizon)
    lens = ConsistencyLens.from_subject(frozen, str(frozen.site(SITE)), code_length=options.length)
    clock, folder = Clock(), tempfile.gettempdir()
    given = ConsistencyLensArguments(
        output_dir=folder, report_to="none", use_cpu=True, disable_tqdm=True, save_strategy="no", max_steps=steps,
        warm_start="none", warm_steps=0, per_device_train_batch_size=options.rows, kl_horizon=options.horizon,
        logging_strategy="no",
    )  # fmt: skip
    trainer = ConsistencyLensTrainer(lens, given, rows, callbacks=[clock], frozen=frozen)
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    trainer.train()
    if trainer.is_world_process_zero():
        found = {"processes": trainer.args.world_size, "seconds": clock.seconds[SKIPPED:]}
        path.write_text(json.dumps(found), encoding="utf-8")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def launched(options: argparse.Namespace, processes: int) -> float:
    """Median seconds of a step of a run with so many processes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "seconds.json"
        own = [f"--{name}={vars(options)[name]}" for name in ("size", "rows", "length", "context", "horizon", "steps")]
        run = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        command = [sys.executable, *run, __file__, *own, f"--processes={processes}", f"--worker={path}"]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
        found = json.loads(path.read_text(encoding="utf-8"))
    if found["processes"] != processes:
        raise SystemExit(f"{found['processes']} processes found each other, {processes} were started")
    return median(found["seconds"])


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    rounds = [(launched(options, 1), launched(options, options.processes)) for _ in range(options.rounds)]
    found = [{"round": i, "alone s": one, "together s": many, "efficiency": one / many}
             for i, (one, many) in enumerate(rounds, 1)]  # fmt: skip
    return [*found, {"round": "median", "alone s": median(one for one, _ in rounds),
                     "together s": median(many for _, many in rounds),
                     "efficiency": median(one / many for one, many in rounds)}]  # fmt: skip


def new_parser() -> argparse.ArgumentParser:
    parser = arguments(__doc__)
    parser.add_argument("--size", choices=SIZES, default="pilot")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rows", type=int, default=32, help="B, activations per process and step")
    parser.add_argument("--length", type=int, default=8, help="T, tokens of a text")
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--horizon", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10, help="timed in each run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    return parser


def main() -> None:
    options = new_parser().parse_args()
    if options.worker:
        train(options, options.worker)
        return
    results = measure(options)
    title = f"{options.processes} processes against one, {options.size}, {options.rows} rows each"
    show(title, list(results[0]), [list(row.values()) for row in results])
    report(options.json, "cpu", {k: v for k, v in vars(options).items() if k not in ("json", "worker")}, results)


if __name__ == "__main__":
    main()
