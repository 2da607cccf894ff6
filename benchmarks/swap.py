"""The cheap swap against the whole-sequence swap, forward and backward.

    python benchmarks/swap.py                       # a small model on the CPU, a few minutes
    python benchmarks/swap.py --architectures       # the swap's largest error, architecture by architecture
    python benchmarks/swap.py --size qwen3-0.6b --device cuda --dtype bfloat16 --json swap.json

Weights are random and built in code: nothing is downloaded. `prefix` runs all columns but the last once; `clean` and
`edited` are passes over the last column against it. `naive` runs the whole sequence twice, clean and edited.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from harness import Timing, arguments, interleaved, report, show
from sizes import DTYPES, SIZES, random_lm

from consistency_lens.frozen import Edit, FrozenLM

TESTS = Path(__file__).resolve().parents[1] / "tests"
PARTS = ("prefix", "clean", "edited fwd", "edited bwd", "naive clean", "naive fwd", "naive bwd")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--size", choices=SIZES, default="pilot")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--batch", type=int, default=64, help="rows (default: 64)")
    parser.add_argument("--contexts", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--max_tokens", type=int, default=16384, help="rows are left out where a batch holds more")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--budget", type=float, default=45, help="seconds per context after which no round is begun")
    parser.add_argument("--architectures", action="store_true", help="the swap's error for each tiny architecture")
    options = parser.parse_args()
    if options.threads or options.architectures:  # tiny models only wait for a second thread
        torch.set_num_threads(options.threads or 1)
    results = errors_by_architecture() if options.architectures else swap_by_context(options)
    settings = {name: value for name, value in vars(options).items() if name != "json"}
    report(options.json, options.device, settings, results)


class Swap:
    """One context length: what is timed, and what it leaves for the next step and for comparison."""

    def __init__(self, lm: FrozenLM, rows: int, context: int) -> None:
        self.lm = lm
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(lm.vocab_size, (rows, context), generator=generator).to(lm.device)
        self.batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        self.site = lm.site("resid_post.1/2")
        own = lm.read(self.batch, self.site, ids.new_full((rows, 1), context - 1))[str(self.site)][:, 0]
        noise = torch.randn(own.shape, generator=generator).to(own)
        self.values = {name: (own + 0.1 * own.std() * noise).requires_grad_() for name in ("cheap", "naive")}
        self.logits: dict[str, torch.Tensor] = {}

    def steps(self) -> dict[str, Any]:
        return dict(
            zip(
                PARTS,
                [
                    self.prefix,
                    lambda: self.clean("cheap"),
                    lambda: self.edited("cheap"),
                    lambda: self.backward("cheap"),
                    lambda: self.clean("naive"),
                    lambda: self.edited("naive"),
                    lambda: self.backward("naive"),
                ],
                strict=True,
            )
        )

    def prefix(self) -> None:
        self.run = self.lm.prefix(self.batch)

    def passed(self, way: str, edits: list[Edit]) -> torch.Tensor:
        return self.run.logits(edits) if way == "cheap" else self.lm.logits(self.batch, edits, keep=1)

    def clean(self, way: str) -> None:
        with torch.no_grad():
            self.target = self.passed(way, []).float().log_softmax(-1)

    def edited(self, way: str) -> None:
        self.values[way].grad = None
        self.logits[way] = self.passed(way, [Edit(self.site, self.values[way])])

    def backward(self, way: str) -> None:
        """Of the KL that a lens is trained on, summed so that its gradient does not shrink with the batch."""
        found = self.logits[way].float().log_softmax(-1)
        (self.target.exp() * (self.target - found)).sum().backward()

    def differences(self) -> tuple[float, float]:
        """Largest absolute difference of the logits; of the gradients, relative to the largest gradient."""
        cheap, naive = self.values["cheap"].grad, self.values["naive"].grad
        assert cheap is not None and naive is not None
        logits = (self.logits["cheap"] - self.logits["naive"]).abs().max()
        return logits.item(), ((cheap - naive).abs().max() / naive.abs().max()).item()


def swap_by_context(options: argparse.Namespace) -> list[dict[str, Any]]:
    lm = random_lm(options.size, max(options.contexts), options.dtype, options.device)
    results = []
    for context in options.contexts:
        rows = max(1, min(options.batch, options.max_tokens // context))
        swap = Swap(lm, rows, context)
        timings = interleaved(swap.steps(), options.rounds, 1, options.device, options.budget)
        results.append({"context": context, "batch": rows, **summary(timings), **errors(swap)})
        del swap
    columns = ["context", "batch", *(f"{part} ms" for part in PARTS), "edited x", "swap x", "logits Δ", "grads Δ"]
    ratios = ("edited_ratio", "swap_ratio", "logits_difference", "gradient_difference")
    table = [
        [r["context"], r["batch"], *(1e3 * r["seconds"][part] for part in PARTS), *(r[name] for name in ratios)]
        for r in results
    ]
    note = (
        "edited x: one edited forward and backward, naive / cheap.\n"
        "swap x: (naive clean + naive fwd + naive bwd) / (prefix + clean + edited fwd + edited bwd).\n"
        "Medians of interleaved rounds; grads Δ is relative to the largest gradient. "
        f"A batch holds at most {options.max_tokens} tokens (--max_tokens)."
    )
    show(f"swap, {options.size}, {options.dtype}", columns, table, note)
    return results


def summary(timings: dict[str, Timing]) -> dict[str, Any]:
    seconds = {part: timing.median for part, timing in timings.items()}
    edited = {way: seconds[f"{way} fwd"] + seconds[f"{way} bwd"] for way in ("edited", "naive")}
    cheap = seconds["prefix"] + seconds["clean"] + edited["edited"]
    return {
        "rounds": len(timings["prefix"].seconds),
        "seconds": seconds,
        "spread": {part: timing.spread for part, timing in timings.items()},
        "edited_ratio": edited["naive"] / edited["edited"],
        "swap_ratio": (seconds["naive clean"] + edited["naive"]) / cheap,
    }


def errors(swap: Swap) -> dict[str, float]:
    logits, gradients = swap.differences()
    return {"logits_difference": logits, "gradient_difference": gradients}


def errors_by_architecture() -> list[dict[str, Any]]:
    """Over every site, horizon 0 and 4, rows padded on the left: the same comparison that the tests make."""
    sys.path[:0] = [str(TESTS), str(TESTS / "frozen")]
    from tiny import TINY_CONFIGS, padded_batch, shared_lm
    from twins import largest_difference

    results = []
    for case in TINY_CONFIGS:
        found, lm = {}, shared_lm(case)
        for horizon in (0, 4):
            found[f"logits_{horizon}"], found[f"gradients_{horizon}"] = largest_difference(
                lm, padded_batch(horizon=4), lm.sites, horizon
            )
        results.append({"architecture": case, **found})
    columns = ["architecture", "logits Δ", "grads Δ", "logits Δ, horizon 4", "grads Δ, horizon 4"]
    note = "Largest absolute difference over all sites, float32, tiny random models (tests/tiny.py)."
    show("cheap swap against its slow twin", columns, [list(result.values()) for result in results], note)
    return results


if __name__ == "__main__":
    main()
