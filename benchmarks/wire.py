"""Speed of a wire: its bytes, its training step, and what a reader gains who has a code in the place of a text.

    python benchmarks/wire.py                                    # bytes: 64 windows of 32 vectors of 256, seconds
    python benchmarks/wire.py --what step first_token journey --lm smollm2-135m       # a folder; minutes
    python benchmarks/wire.py --vectors 8 --size 16 --repeats 1 --threads 1

- `bytes`: `pack` is `Wire.of` and `to_bytes`, `unpack` is `from_bytes` (with its checksum and all checks) and `codes`.
  Megabytes per second are those of the float32 code. The target is 50 MB/s for both at every precision.
- `step`: forward and backward pass of a training step without the optimizer, over the passes of plain transformers
  that it cannot do without: the compressor's layers, and the receiver with a gradient to its inputs. Target: 1.25.
- `first_token`: until the first token of an answer stands there, from a text of `--tokens` and from its code, with
  tokenising, unpacking and adapter; what compressing takes; and the key-value cache. Target: 2.5 times faster.
- `journey`: until an answer of `--answer` tokens stands there: the text sent as UTF-8 and read, against compressed,
  sent and read as a code, and against a code that lies there already. Sending is arithmetic, at `--bandwidth`.

Lenses are untrained: speed does not depend on what they say. Ways take turns in one run, so that ratios hold on a busy
machine where times do not.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from harness import arguments, interleaved, report, show
from wire_journeys import CLOCKS, break_even, first_tokens, journeys, steps

from consistency_lens.soft.bytes.quantising import BITS
from consistency_lens.soft.bytes.wire import Wire, bytes_of

TARGET = 50.0  # MB/s
WHAT = ("bytes", "step", "first_token", "journey")


def new_parser() -> argparse.ArgumentParser:
    parser = arguments(__doc__)
    parser.add_argument("--vectors", type=int, default=64 * 32, help="M, vectors of the code (default: 2048)")
    parser.add_argument("--size", type=int, default=256, help="d_z, coordinates of a vector (default: 256)")
    parser.add_argument("--group", type=int, default=32, help="coordinates that share a scale (default: 32)")
    parser.add_argument("--what", nargs="+", choices=WHAT, default=["bytes"], help="what to time (default: bytes)")
    parser.add_argument("--lm", default="pilot", help="model: a size of benchmarks/sizes.py, or a folder")
    parser.add_argument("--layers", type=int, default=2, help="layers of the compressor (default: 2)")
    parser.add_argument("--tokens", type=int, default=1024, help="tokens of the text of first_token (default: 1024)")
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 256, 1024], help="tokens of journey's texts")
    parser.add_argument("--window", type=int, default=None, help="tokens compressed together (default: 512)")
    parser.add_argument("--ratio", type=float, default=4.0, help="tokens per vector (default: 4)")
    parser.add_argument("--bits", type=int, default=8, help="bits per coordinate (default: 8)")
    parser.add_argument("--answer", type=int, default=16, help="tokens of an answer (default: 16)")
    parser.add_argument("--rows", type=int, default=8, help="rows of a training step (default: 8)")
    parser.add_argument("--passage", type=int, default=96, help="tokens of a passage in a step (default: 96)")
    parser.add_argument("--bandwidth", type=float, default=12.5, help="MB/s of the line (default: 12.5)")
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall", help="cpu: of this process and one thread")
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds after which no round begins")
    parser.add_argument("--repeats", type=int, default=15, help="rounds that are timed (default: 15)")
    return parser


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each precision."""
    M, d_z, group = options.vectors, options.size, options.group
    code = torch.randn(M, d_z, generator=torch.Generator().manual_seed(0)).to(options.device)
    written = {bits: Wire.of(code, bits, group).to_bytes() for bits in BITS}
    steps: dict[str, Callable[[], object]] = {}
    for bits in BITS:
        steps[f"pack {bits}"] = lambda bits=bits: Wire.of(code, bits, group).to_bytes()
        steps[f"unpack {bits}"] = lambda bits=bits: Wire.from_bytes(written[bits]).codes()
    timings = interleaved(steps, options.repeats, 2, options.device, clock=CLOCKS[options.clock])
    megabytes = 4e-6 * code.numel()
    rows = []
    for bits in BITS:
        speed = {f"{way} MB/s": megabytes / timings[f"{way} {bits}"].median for way in ("pack", "unpack")}
        length = bytes_of(M, d_z, bits, group)
        rows.append(
            {"bits": bits, "bytes": length, "of float32": length / (4 * code.numel())}
            | speed
            | {"met": min(speed.values()) >= TARGET}
        )
    return rows


def main() -> None:
    options = new_parser().parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    tables: dict[str, tuple[str, Callable[[Any], list[dict[str, Any]]], str]] = {
        "bytes": (
            f"a code of {options.vectors} vectors of {options.size}, groups of {options.group}",
            measure,
            f"Target: {TARGET:g} MB/s.",
        ),
        "step": (f"a training step, {options.rows} passages of {options.passage} tokens", steps, "Target: 1.25."),
        "first_token": (
            f"the first token behind {options.tokens} tokens at {options.ratio:g} tokens per vector",
            first_tokens,
            "Target: from the code 2.5 times faster.",
        ),
        "journey": (f"an answer of {options.answer} tokens, end to end", journeys, ""),
    }
    results: list[dict[str, Any]] = []
    for what in options.what:
        title, act, note = tables[what]
        rows = act(options)
        if what == "journey":
            ways = {"code": "Compressing counted", "kept code": "With a code that is kept"}
            note = " ".join(f"{said}, the code is faster: {break_even(rows, way)}." for way, said in ways.items())
        show(f"{what}: {title}", list(rows[0]), [list(row.values()) for row in rows], note)
        results += [{"what": what} | row for row in rows]
    report(options.json, options.device, {k: v for k, v in vars(options).items() if k != "json"}, results)


if __name__ == "__main__":
    main()
