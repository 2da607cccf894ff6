"""Speed and memory of a crosslayer transcoder's training step, against the ways in which others compute it.

    python benchmarks/transcoder.py                                  # GPT-2's shape: 12 layers, 768 -> 6,144 features
    python benchmarks/transcoder.py --tables growth --png growth.png
    python benchmarks/transcoder.py --layers 4 --size 128 --features 1024 --tokens 256       # seconds

All ways have the same encoders, TopK, objective and values; they differ in how decoders lie in memory and are
multiplied. Steps are timed in turn, so that ratios hold on a busy machine where times do not. A step is a forward and
a backward pass, without the optimizer; the memory of a step is measured with Adam, in a process of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from growth_plot import draw
from harness import arguments, interleaved, report, show
from peak import alone, peak_of
from torch import Tensor

from consistency_lens.sparse.coding.encoding import break_even
from consistency_lens.sparse.coding.nonlinear import topk_mask
from consistency_lens.sparse.coding.slow_decoding import (
    as_dense,
    as_pairs,
    as_targets,
    dense_masked,
    packed_pairs,
    target_major,
)
from consistency_lens.sparse.configuration import CrosslayerTranscoderConfig
from consistency_lens.sparse.modeling import CrosslayerTranscoder
from consistency_lens.sparse.training.objective import SPARSITY, STEEPNESS, terms

MASKED, PAIRS, TARGETS = "dense mask", "packed pairs", "target major"
CAUSAL, ENTRIES, SWITCH = "ours, dense", "ours, sparse", "ours, by density"
LIMITS: dict[str, float | None] = {CAUSAL: 0.0, ENTRIES: 1.0, SWITCH: None}
WAYS = (MASKED, PAIRS, TARGETS, *LIMITS)
GROWING = {"tokens": "tokens of a step", "pairs of layers": "L(L+1)/2", "k": "k, decoding", "F": "F, decoding"}
Step = Callable[[], Tensor]


def products_in(options: argparse.Namespace) -> torch.autocast:
    """Inside, matrices are multiplied in the type that is asked for."""
    kind = options.device.split(":")[0]
    return torch.autocast(kind, torch.bfloat16, enabled=options.dtype == "bfloat16")


def lens_of(options: argparse.Namespace, **changed: Any) -> CrosslayerTranscoder:
    own = vars(options) | changed
    config = CrosslayerTranscoderConfig(
        depth=own["layers"], hidden_size=own["size"], features=own["features"], nonlinearity="topk", k=own["k"]
    )
    return CrosslayerTranscoder(config).to(options.device)


def rows_of(options: argparse.Namespace, **changed: Any) -> tuple[Tensor, Tensor]:
    """What is read and what is written, `[N, L, d]` each."""
    own = vars(options) | changed
    generator = torch.Generator().manual_seed(0)
    shape = (own["tokens"], own["layers"], own["size"])
    read, written = (torch.randn(shape, generator=generator).to(options.device) for _ in "rw")
    return read, written


def our_step(lens: CrosslayerTranscoder, read: Tensor, written: Tensor, limit: float | None) -> Tensor:
    """Forward and backward pass; returns the loss."""
    found = terms(lens, lens(read, limit), read, written)
    loss = found["mse"] + SPARSITY * found["sparsity"]
    lens.zero_grad(set_to_none=True)
    loss.backward()
    return loss.detach()


def their_step(lens: CrosslayerTranscoder, read: Tensor, written: Tensor, way: str) -> tuple[Step, Tensor]:
    """The same with one tensor for all encoders, which is returned, and decoders that lie otherwise in memory."""
    count, size, k = read.shape[1], read.shape[2], int(lens.config.k or 0)
    ours = [source.W_dec.detach() for source in lens.layers_in_order if source.W_dec is not None]
    encoder = torch.stack([source.W_enc.detach() for source in lens.layers_in_order]).requires_grad_()
    bias = torch.stack([source.b_enc.detach() for source in lens.layers_in_order]).requires_grad_()
    lay_out: dict[str, Callable[[], Any]] = {
        MASKED: lambda: as_dense(ours, size),
        PAIRS: lambda: as_pairs(ours, size),
        TARGETS: lambda: as_targets(ours, size),
    }
    laid = lay_out[way]()
    weights = [weight.clone().requires_grad_() for weight in (laid if isinstance(laid, list) else [laid])]
    decoder_bias = torch.zeros(count, size, device=read.device, requires_grad=True)
    # A row per feature for what the sparsity term weighs it by, at no cost beside that of the decoding.
    sources, _ = torch.triu_indices(count, count, device=read.device)

    def norms() -> Tensor:
        if way == MASKED:
            mask = torch.ones(count, count, device=read.device).triu()
            return (weights[0].square().sum(-1) * mask[:, :, None]).sum(1).sqrt()
        if way == PAIRS:
            squares = weights[0].square().sum(-1)
            return squares.new_zeros(count, squares.shape[1]).index_add(0, sources, squares).sqrt()
        squares = weights[0].new_zeros(count, weights[0].shape[1])
        for target, weight in enumerate(weights):
            own = weight.square().sum(-1)
            squares = squares + torch.nn.functional.pad(own, (0, 0, 0, count - 1 - target))
        return squares.sqrt()

    def step() -> Tensor:
        pre = torch.einsum("nid,ifd->nif", read, encoder) + bias
        with torch.no_grad():
            kept = topk_mask(pre, k)
        features = torch.where(kept, pre, 0.0)
        decode: dict[str, Callable[[], Tensor]] = {
            MASKED: lambda: dense_masked(features, weights[0]),
            PAIRS: lambda: packed_pairs(features, weights[0]),
            TARGETS: lambda: target_major(features, weights),
        }
        error = decode[way]() + decoder_bias - written
        sparsity = torch.tanh(STEEPNESS * norms() * features).sum() / len(read)
        loss = error.square().mean() + SPARSITY * sparsity
        for leaf in (encoder, bias, decoder_bias, *weights):
            leaf.grad = None
        loss.backward()
        return loss.detach()

    return step, encoder


def bare_products(options: argparse.Namespace) -> Step:
    """The matrix products of a dense causal step and nothing else: encoder and decoder forward, both weight gradients
    and the gradient of the features."""
    tokens, size, features = options.tokens, options.size, options.features
    x, f = torch.randn(tokens, size), torch.randn(tokens, features)
    encoder, wide = torch.randn(features, size), [(options.layers - i) * size for i in range(options.layers)]
    decoder, gradient = torch.randn(features, wide[0]), torch.randn(tokens, wide[0])
    x, f, encoder, decoder, gradient = (t.to(options.device) for t in (x, f, encoder, decoder, gradient))
    rows = [decoder[:, :width].contiguous() for width in wide]

    def step() -> Tensor:
        for weight in rows:
            out = gradient[:, : weight.shape[1]]
            x @ encoder.T
            f @ weight
            f.T @ out
            f.T @ x
            out @ weight.T
        return f

    return step


def speed(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds of a step of every way, in turn."""
    lens = lens_of(options)
    read, written = rows_of(options)
    steps: dict[str, Step] = {
        way: their_step(lens, read, written, way)[0] for way in options.ways if way not in LIMITS
    }
    for way, limit in LIMITS.items():
        if way in options.ways:
            steps[way] = lambda limit=limit: our_step(lens, read, written, limit)
    losses = {way: float(step()) for way, step in steps.items()}
    worst = max(abs(loss / next(iter(losses.values())) - 1) for loss in losses.values())
    assert worst < (1e-4 if options.dtype == "float32" else 1e-2), f"the ways compute different losses: {losses}"
    steps["bare products"] = bare_products(options)
    timings = interleaved(steps, options.repeats, 1, options.device, options.budget)
    base = next(iter(timings.values())).median
    return [
        {
            "way": way,
            "ms": 1e3 * timing.median,
            "spread": timing.spread,
            "tokens/s": options.tokens / timing.median,
            "times faster than the first": base / timing.median,
            "over bare products": timing.median / timings["bare products"].median,
        }
        for way, timing in timings.items()
    ]


def switch(options: argparse.Namespace) -> list[dict[str, Any]]:
    """What the choice by density costs against the better of the two, at several densities."""
    read, written = rows_of(options)
    rows = []
    for k in options.ks:
        lens = lens_of(options, k=min(k, options.features))
        steps: dict[str, Step] = {
            way: (lambda lens=lens, limit=limit: our_step(lens, read, written, limit)) for way, limit in LIMITS.items()
        }
        timings = interleaved(steps, options.repeats, 1, options.device, options.budget)
        seconds = {way: timing.median for way, timing in timings.items()}
        best = min(seconds[CAUSAL], seconds[ENTRIES])
        rows.append(
            {
                "k": k,
                "density": k / options.features,
                **{f"{way} ms": 1e3 * value for way, value in seconds.items()},
                "chosen": choices(lens, k / options.features),
                "over the better": seconds[SWITCH] / best,
            }
        )
    return rows


def choices(lens: CrosslayerTranscoder, density: float) -> str:
    """What the choice by density comes to, over the layers: decoders of the first ones are larger."""
    limits = [break_even(source.W_dec) for source in lens.layers_in_order if source.W_dec is not None]
    return " and ".join(sorted({"sparse" if density <= limit else "dense" for limit in limits}))


def growth(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Exponents of time over tokens, pairs of layers and k, all sparse; and over F, of the sparse decoding alone."""
    rows = []
    small = {"layers": max(2, options.layers // 2), "features": options.features // 4, "tokens": options.tokens // 2}
    axes: dict[str, Iterator[tuple[float, dict[str, Any]]]] = {
        "tokens": ((n, small | {"tokens": n}) for n in (options.tokens // 4, options.tokens // 2, options.tokens)),
        "pairs of layers": (
            (n * (n + 1) / 2, small | {"layers": n}) for n in sorted({2, small["layers"], options.layers})
        ),
        "k": ((n, small | {"k": n}) for n in (options.k, 2 * options.k, 4 * options.k)),
        "F": ((small["features"] * n, small | {"features": small["features"] * n}) for n in (1, 2, 4)),
    }
    for axis, cases in axes.items():
        steps: dict[str, Step] = {}
        for value, changed in cases:
            lens, (read, written) = lens_of(options, **changed), rows_of(options, **changed)
            if axis in ("k", "F"):  # encoders grow with F, and not with k
                steps[str(value)] = _decoding(lens, read)
            else:
                steps[str(value)] = lambda lens=lens, r=read, w=written: our_step(lens, r, w, 1.0)
        timings = interleaved(steps, options.repeats, 1, options.device, options.budget)
        x, y = np.log([float(v) for v in steps]), np.log([timings[v].median for v in steps])
        shown = " ".join(f"{1e3 * timings[v].median:.3g}" for v in steps)
        rows.append({"axis": axis, "values": " ".join(f"{float(v):g}" for v in steps), "ms": shown})
        rows[-1]["exponent"] = float(np.polyfit(x, y, 1)[0])
    return rows


def draw_growth(rows: list[dict[str, Any]], path: Path) -> None:
    """A panel for each axis."""
    times = [
        {"axis": row["axis"], "value": float(value), "ms": float(ms)}
        for row in rows
        for value, ms in zip(row["values"].split(), row["ms"].split(), strict=True)
    ]
    draw(times, rows, path, GROWING)


def _decoding(lens: CrosslayerTranscoder, read: Tensor) -> Step:
    """The sparse decoding forward, from features that are there."""
    with torch.no_grad():
        active = lens.encode(read, 1.0)

    def step() -> Tensor:
        with torch.no_grad():
            return lens.decode(active, read, 1.0)

    return step


def memory(options: argparse.Namespace, limit: float | None) -> dict[str, Any]:
    """Peak of two steps with Adam, over weights, gradients and moments."""
    if options.threads:
        torch.set_num_threads(options.threads)
    read, written = rows_of(options)
    with peak_of(options.device) as found:
        lens = lens_of(options)
        optimizer = torch.optim.Adam([p for part in lens.parts().values() for p in part.values()], foreach=False)
        for _ in range(2):
            our_step(lens, read, written, limit)
            optimizer.step()
    held = 4 * 4 * sum(p.numel() for part in lens.parts().values() for p in part.values()) / 1e6
    return {"weights, gradients, moments MB": round(held), "peak MB": round(found.mb), "ratio": found.mb / held}


def new_parser() -> argparse.ArgumentParser:
    parser = arguments(__doc__)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--size", type=int, default=768, help="d, hidden size")
    parser.add_argument("--features", type=int, default=6144, help="F, per layer")
    parser.add_argument("--tokens", type=int, default=512, help="N, of a step")
    parser.add_argument("--k", type=int, default=20, help="active features per layer")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="of the first table")
    parser.add_argument("--ks", type=int, nargs="+", default=[20, 60, 180, 240, 360, 600], help="for the switch")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of matrix products")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--budget", type=float, default=300, help="seconds per table; no round is begun after them")
    parser.add_argument("--png", type=Path, help="draw the table of growth into this file")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    return parser


TABLES: dict[str, Callable[[argparse.Namespace], list[dict[str, Any]]]] = {
    "speed": speed,
    "switch": switch,
    "growth": growth,
    "memory": lambda options: [
        {"way": way, **alone(memory, options, limit)} for way, limit in LIMITS.items() if way != SWITCH
    ],
}


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of every table that is asked for."""
    if options.threads:
        torch.set_num_threads(options.threads)
    with products_in(options):
        return [{"table": name, **row} for name in options.tables for row in TABLES[name](options)]


def main() -> None:
    options = new_parser().parse_args()
    results = measure(options)
    shape = f"{options.layers} layers, {options.size} -> {options.features}, {options.tokens} tokens, k {options.k}"
    for name in options.tables:
        rows = [
            {key: value for key, value in row.items() if key != "table"} for row in results if row["table"] == name
        ]
        show(f"{name}: {shape}", list(rows[0]), [list(row.values()) for row in rows])
    if options.png:
        draw_growth([row for row in results if row["table"] == "growth"], options.png)
    settings = {k: v for k, v in vars(options).items() if k not in ("json", "png")}
    report(options.json, options.device, settings, results)


if __name__ == "__main__":
    main()
