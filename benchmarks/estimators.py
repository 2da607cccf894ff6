"""`parallel` against `sequential`: the same words, one pass with gradient against a graph kept through T steps.

    python benchmarks/estimators.py                             # T = 8, 16, 32, a small model, two minutes
    python benchmarks/estimators.py --size qwen3-0.6b --trainable lora --device cuda --dtype bfloat16

Timed is the lens alone, forward and backward: activation -> words -> activation, both parts trained. Peak memory is
that of the same work in a process of its own, above what the models themselves take. The table's last columns say how
many times more `sequential` takes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from harness import arguments, interleaved, report, show
from peak import alone, peak_of
from random_runs import SITE
from sizes import DTYPES, SIZES, random_lm

from consistency_lens.text.modeling import ConsistencyLens
from consistency_lens.text.parts.generation import Noise

WAYS = ("parallel", "sequential")


def work_of(options: argparse.Namespace, length: int) -> Callable[[str, int], None]:
    """A function of the estimator and the number of rows: forward and backward, once."""
    frozen = random_lm(options.size, 2 * max(options.lengths) + 32, options.dtype, options.device)
    lens = ConsistencyLens.from_subject(
        frozen, str(frozen.site(SITE)), code_length=length, trainable=options.trainable
    )
    activations = torch.randn(options.rows, frozen.hidden_size, device=options.device)

    def once(estimator: str, rows: int) -> None:
        restored = lens(activations[:rows], noise=Noise(0), estimator=estimator).restored
        (restored - activations[:rows]).square().sum(-1).mean().backward()
        lens.zero_grad(set_to_none=True)

    return once


def peak(options: argparse.Namespace, length: int, estimator: str) -> float:
    """In a process of its own."""
    if options.threads:
        torch.set_num_threads(options.threads)
    once = work_of(options, length)
    once(estimator, 1)  # libraries take what they keep
    with peak_of(options.device) as found:
        once(estimator, options.rows)
    return found.mb


def compare(options: argparse.Namespace, length: int) -> dict[str, Any]:
    once = work_of(options, length)
    steps = {way: lambda way=way: once(way, options.rows) for way in WAYS}
    timings = interleaved(steps, options.repeats, 1, options.device, options.budget)
    peaks = {way: alone(peak, options, length, way) for way in WAYS}
    found: dict[str, Any] = {"T": length}
    found |= {f"{way} ms": round(1e3 * timings[way].median) for way in WAYS}
    found |= {f"{way} MB": round(peaks[way], 1) for way in WAYS}
    found["time x"] = timings["sequential"].median / timings["parallel"].median
    found["memory x"] = peaks["sequential"] / peaks["parallel"]
    return found


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--size", choices=SIZES, default="pilot")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--trainable", choices=["full", "lora"], default="full")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--lengths", type=int, nargs="+", default=[8, 16, 32], help="T, tokens of a text")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--budget", type=float, default=25, help="seconds per length; no round is begun after them")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    results = [compare(options, length) for length in options.lengths]
    title = f"parallel against sequential, {options.size}, {options.trainable}, {options.rows} rows"
    show(title, list(results[0]), [list(row.values()) for row in results])
    report(options.json, options.device, {k: v for k, v in vars(options).items() if k != "json"}, results)


if __name__ == "__main__":
    main()
