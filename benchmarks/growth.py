"""How the cost of a step grows: with T, with the batch, with the context.

    python benchmarks/growth.py                                       # a small model, some minutes
    python benchmarks/growth.py --size qwen3-0.6b --trainable lora --device cuda --dtype bfloat16 --png growth.png

One of the three changes at a time; steps of all its values are timed in turn. The exponent is that of the power law
nearest to the times, `seconds ~ value^exponent`: 1 is linear, less is sub-linear. A step has costs that do not grow at
all, so the exponent over the upper half of the values stands beside it: that is where a growth would end that is worse
than linear. Contexts are a prefix that runs once per activation, whatever is done with it after.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from growth_plot import draw
from harness import arguments, interleaved, report, show
from random_runs import SITE, batch_of, random_rows, trainer_of
from sizes import DTYPES, SIZES, random_lm

from consistency_lens.text.modeling import ConsistencyLens

AXES = {"length": "T, tokens of a text", "rows": "B, activations", "context": "tokens of a context"}
STRAIGHT = 0.1  # an exponent this near to 1 is linear


def time_of(options: argparse.Namespace, axis: str) -> list[dict[str, Any]]:
    """Seconds of a step for each value of one axis, the others as they are by default."""
    longest = 2 * max(*options.contexts, options.context)
    frozen = random_lm(options.size, longest, options.dtype, options.device)
    values = {"length": options.lengths, "rows": options.batches, "context": options.contexts}[axis]
    steps = {}
    for value in values:
        own = {"length": options.length, "rows": options.rows, "context": options.context} | {axis: value}
        if options.trainable == "lora" and steps:  # adapters stay on what they are put on
            frozen = random_lm(options.size, longest, options.dtype, options.device)
        rows = random_rows(frozen, own["rows"], own["context"], options.horizon)
        settings = {"code_length": own["length"], "trainable": options.trainable}
        lens = ConsistencyLens.from_subject(frozen, str(frozen.site(SITE)), **settings)
        trainer = trainer_of(lens, frozen, rows, estimator="policy", kl_horizon=options.horizon)
        batch = batch_of(trainer)

        def step(trainer: Any = trainer, lens: Any = lens, batch: Any = batch) -> None:
            trainer.training_step(lens, batch)
            lens.zero_grad(set_to_none=True)

        steps[str(value)] = step
    timings = interleaved(steps, options.repeats, 1, options.device, options.budget)
    return [{"axis": axis, "value": int(v), "ms": 1e3 * t.median, "spread": t.spread} for v, t in timings.items()]


def fit(rows: list[dict[str, Any]]) -> float:
    """The exponent of the power law nearest to the times."""
    x, y = (np.log([row[name] for row in rows]) for name in ("value", "ms"))
    return float(np.polyfit(x, y, 1)[0])


def verdict(exponent: float) -> str:
    if abs(exponent - 1) <= STRAIGHT:
        return "linear"
    return "sub-linear" if exponent < 1 else "worse than linear"


def measure(options: argparse.Namespace) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Times, and what they come to."""
    if options.threads:
        torch.set_num_threads(options.threads)
    times, fits = [], []
    for axis in AXES:
        rows = time_of(options, axis)
        upper = rows[len(rows) // 2 :] if len(rows) > 3 else rows
        exponents = {"exponent": fit(rows), "upper half": fit(upper)}
        times += rows
        fits.append({"axis": axis, **exponents, "growth": verdict(exponents["upper half"])})
    return times, fits


def new_parser() -> argparse.ArgumentParser:
    parser = arguments(__doc__)
    parser.add_argument("--size", choices=SIZES, default="pilot")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--trainable", choices=["full", "lora"], default="full")
    parser.add_argument("--lengths", type=int, nargs="+", default=[4, 8, 16, 32, 64])
    parser.add_argument("--batches", type=int, nargs="+", default=[4, 8, 16, 32, 64])
    parser.add_argument("--contexts", type=int, nargs="+", default=[32, 64, 128, 256, 512])
    parser.add_argument("--length", type=int, default=8, help="where T does not change")
    parser.add_argument("--rows", type=int, default=16, help="where the batch does not change")
    parser.add_argument("--context", type=int, default=64, help="where the context does not change")
    parser.add_argument("--horizon", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--budget", type=float, default=90, help="seconds per axis; no round is begun after them")
    parser.add_argument("--png", type=Path, help="draw the picture into this file")
    return parser


def main() -> None:
    options = new_parser().parse_args()
    times, fits = measure(options)
    show(f"ms of a step, {options.size}", list(times[0]), [list(row.values()) for row in times])
    show("growth", list(fits[0]), [list(row.values()) for row in fits], "seconds ~ value ^ exponent")
    if options.png:
        draw(times, fits, options.png, AXES)
    settings = {k: v for k, v in vars(options).items() if k not in ("json", "png")}
    report(options.json, options.device, settings, [*fits, *times])


if __name__ == "__main__":
    main()
