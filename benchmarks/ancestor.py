"""A whole training step against the plainest way to do the same: three copies, a graph through time, whole sequences.

    python benchmarks/ancestor.py                                    # a model of 134 million weights, some minutes
    python benchmarks/ancestor.py --size qwen3-0.6b --device cuda --dtype bfloat16 --rows 32

The plain way is made of our own slow twins: the model, and two whole float32 clones of it, each trained and each
with all its blocks; words are written one after the other with the graph kept (`sequential`); and the model reads
context and horizon from the first token to the last, once clean and once edited. It has no prefix cache, no shared
weights, no second pass in the place of the graph. The objective is the same for all ways: straight-through words, KL
over P and the horizon, the vector, Δ without gradient. Ours are `lora` (one set of weights) and `full` (two clones,
the encoder cut above the site), with `parallel`.

Timed are forward, backward and optimizer, in turn in one process; peak memory of the same, everything counted, is that
of a process of its own.
"""

from __future__ import annotations

import argparse
import copy
import gc
from collections.abc import Callable
from typing import Any

import torch
from harness import arguments, interleaved, report, show
from memory import lens_of
from peak import alone, held, peak_of
from random_runs import batch_of, random_rows, trainer_of
from sizes import DTYPES, SIZES, random_lm

from consistency_lens.frozen import Edit, FrozenLM
from consistency_lens.objectives import kl_of
from consistency_lens.text.trainer import ConsistencyLensTrainer

PLAIN = "three copies, sequential, whole sequences"
WAYS = {"ours, lora": "lora", "ours, full": "three copies, cut", PLAIN: "three copies"}


class Step:
    """One way, ready to make steps."""

    def __init__(self, options: argparse.Namespace, way: str, frozen: FrozenLM) -> None:
        self.options, self.way = options, way
        lens = lens_of(WAYS[way], frozen, options.length, options.lora_rank)
        rows = random_rows(frozen, options.rows, options.context, options.horizon)
        plain = {"estimator": "parallel", "delta": "stopgrad", "lm_weight": "0"}
        self.trainer: ConsistencyLensTrainer = trainer_of(lens, frozen, rows, kl_horizon=options.horizon, **plain)
        self.batch, self.optimizer = batch_of(self.trainer), self.trainer.create_optimizer()

    def __call__(self) -> None:
        if self.way == PLAIN:
            self.loss().backward()
        else:
            self.trainer.training_step(self.trainer.lens, self.batch)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def loss(self) -> torch.Tensor:
        """The objective, plainly."""
        trainer, batch = self.trainer, self.batch
        original = batch["activations"][trainer.sites[0]].float()
        restored = trainer.lens(original, noise=trainer.noise, estimator="sequential").restored
        edited = restored + (original - restored)[batch["pair"]].detach()
        ids = torch.cat([batch["input_ids"], batch["continuation_ids"][:, : self.options.horizon]], 1)
        whole, keep = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, 1 + self.options.horizon
        with torch.no_grad():
            clean = trainer.frozen.logits(whole, keep=keep)
        at = Edit(trainer.sites[0], edited, positions=batch["input_ids"].shape[1] - 1)
        kl = kl_of(clean, trainer.frozen.logits(whole, at, keep=keep))
        return (kl + (restored - original).square().sum(-1) / trainer.variances[-1]).mean()


def peak(options: argparse.Namespace, way: str) -> float:
    """In a process of its own, after steps of a small model: libraries take what they keep."""
    if options.threads:
        torch.set_num_threads(options.threads)
    steps_of(argparse.Namespace(**vars(options) | {"size": "pilot", "rows": 2}), way)
    return steps_of(options, way)


def steps_of(options: argparse.Namespace, way: str) -> float:
    """Load, make two steps, say what that took."""
    gc.collect()
    before = held(options.device)
    frozen = random_lm(options.size, 2 * options.context, options.dtype, options.device)
    subject = held(options.device) - before
    with peak_of(options.device) as found:
        step = Step(options, way, frozen)
        for _ in range(2):  # in the second one Adam's moments are there while activations are
            step()
    return subject + found.mb


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    if options.threads:
        torch.set_num_threads(options.threads)
    plain = random_lm(options.size, 2 * options.context, options.dtype, options.device)
    steps: dict[str, Callable[[], object]] = {}
    for way in WAYS:  # adapters stay on what they are put on
        steps[way] = Step(options, way, copy.deepcopy(plain) if WAYS[way] == "lora" else plain)
    timings = interleaved(steps, options.repeats, 1, options.device, options.budget)
    peaks = {way: alone(peak, options, way) for way in WAYS}
    slow = timings[PLAIN].median
    return [
        {
            "way": way, "ms": round(1e3 * timings[way].median), "spread": timings[way].spread, "MB": round(peaks[way]),
            "times faster": slow / timings[way].median, "of the memory": peaks[way] / peaks[PLAIN],
        }
        for way in WAYS
    ]  # fmt: skip


def new_parser() -> argparse.ArgumentParser:
    parser = arguments(__doc__)
    parser.add_argument("--size", choices=SIZES, default="mid")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the frozen model")
    parser.add_argument("--rows", type=int, default=8, help="B, activations per step")
    parser.add_argument("--length", type=int, default=16, help="T, tokens of a text")
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--horizon", type=int, default=8)
    parser.add_argument("--lora_rank", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--budget", type=float, default=180, help="seconds; no round is begun after them")
    return parser


def main() -> None:
    options = new_parser().parse_args()
    results = measure(options)
    title = f"a whole step, {options.size}, B {options.rows}, T {options.length}, context {options.context}"
    show(title, list(results[0]), [list(row.values()) for row in results])
    report(options.json, options.device, {k: v for k, v in vars(options).items() if k != "json"}, results)


if __name__ == "__main__":
    main()
