"""The straight-through look-up against the one-hot product that it stands for.

    python benchmarks/look_up.py                       # vocabularies of 32,000 and 128,000, half a minute
    python benchmarks/look_up.py --rows 128 --hidden 4096 --device cuda --dtype bfloat16

Both turn logits `[B, T, V]` into embeddings `[B, T, d]` with the same gradient to the logits. Peak memory is that of
the same work in a process of its own, above the logits and the table. A forward pass that is a look-up takes `B T d`
numbers, whatever V is.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from harness import arguments, interleaved, report, show
from peak import alone, peak_of
from sizes import DTYPES
from torch import Tensor

from consistency_lens.text.parts.generation import Noise, straight_through_embed

NOISE = Noise(0)


class Choice:
    """Logits, the words chosen from them, and both ways to embed these."""

    def __init__(self, options: argparse.Namespace, vocabulary: int, rows: int) -> None:
        shape, device = (rows, options.length, vocabulary), options.device
        generator = torch.Generator(device).manual_seed(0)
        self.logits = torch.empty(shape, device=device).normal_(generator=generator).requires_grad_()
        table = torch.empty(vocabulary, options.hidden, dtype=DTYPES[options.dtype], device=device)
        self.table = table.normal_(generator=generator)
        with torch.no_grad():
            self.ids = torch.stack([NOISE.choose(t, self.logits[:, t]) for t in range(options.length)], 1)

    def forward(self, way: str) -> None:
        self.embedded = self.look_up() if way == "look-up" else self.one_hot()

    def backward(self) -> None:
        self.logits.grad = None
        self.embedded.float().square().sum().backward()
        del self.embedded

    def look_up(self) -> Tensor:
        return straight_through_embed(self.logits, self.ids, self.table, NOISE)

    def one_hot(self) -> Tensor:
        gumbel = torch.stack([torch.as_tensor(NOISE.at(t, self.logits[:, t])) for t in range(self.ids.shape[1])], 1)
        soft = ((self.logits + gumbel) / NOISE.temperature).softmax(-1)
        hard = torch.zeros_like(soft).scatter_(-1, self.ids.unsqueeze(-1), 1.0)
        return (hard + soft - soft.detach()).to(self.table.dtype) @ self.table


def peaks(options: argparse.Namespace, vocabulary: int, way: str) -> tuple[float, float]:
    """In a process of its own: megabytes of the forward pass, and of forward and backward."""
    if options.threads:
        torch.set_num_threads(options.threads)
    small = Choice(options, 1000, options.rows)  # libraries take what they keep
    small.forward(way)
    small.backward()
    choice = Choice(options, vocabulary, options.rows)
    with peak_of(options.device) as both:
        with peak_of(options.device) as forward:
            choice.forward(way)
        choice.backward()
    return forward.mb, max(forward.mb, both.mb)


def compare(options: argparse.Namespace, vocabulary: int) -> list[dict[str, Any]]:
    choice = Choice(options, vocabulary, options.rows)
    steps: dict[str, Any] = {}
    for way in ("look-up", "one-hot"):
        steps |= {f"{way} forward": lambda way=way: choice.forward(way), f"{way} backward": choice.backward}
    timings = interleaved(steps, options.repeats, 1, options.device, options.budget)
    rows = []
    for way in ("look-up", "one-hot"):
        forward_mb, both_mb = alone(peaks, options, vocabulary, way)
        rows.append(
            {"way": way, "V": vocabulary}
            | {f"{p} ms": 1e3 * timings[f"{way} {p}"].median for p in ("forward", "backward")}
            | {"forward MB": round(forward_mb, 1), "both MB": round(both_mb, 1)}
        )
    return rows


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the table; logits are float32")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--length", type=int, default=8, help="T, tokens of a text")
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[32_000, 128_000])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--budget", type=float, default=30, help="seconds per vocabulary; no round is begun after them"
    )
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    results = [row for vocabulary in options.vocabularies for row in compare(options, vocabulary)]
    logits = 4 * options.rows * options.length * max(options.vocabularies) / 1e6
    note = f"For scale: the logits themselves, at the largest V, take {logits:.0f} MB, and so does their gradient."
    title = f"look-up against one-hot product, B {options.rows}, T {options.length}, d {options.hidden}"
    show(title, list(results[0]), [list(row.values()) for row in results], note)
    report(options.json, options.device, {k: v for k, v in vars(options).items() if k != "json"}, results)


if __name__ == "__main__":
    main()
