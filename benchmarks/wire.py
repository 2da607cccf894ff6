"""Speed of a wire: from a float32 code to bytes and back, and the bytes of each precision.

    python benchmarks/wire.py                                    # 64 windows of 32 vectors of 256, seconds
    python benchmarks/wire.py --vectors 8 --size 16 --repeats 1 --threads 1

`pack` is `Wire.of` and `to_bytes`, `unpack` is `from_bytes` (with its checksum and all checks) and `codes`. Megabytes
per second are those of the float32 code. The target is 50 MB/s for both at every precision.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from harness import arguments, interleaved, report, show

from consistency_lens.soft.bytes.quantising import BITS
from consistency_lens.soft.bytes.wire import Wire, bytes_of

TARGET = 50.0  # MB/s


def new_parser() -> argparse.ArgumentParser:
    parser = arguments(__doc__)
    parser.add_argument("--vectors", type=int, default=64 * 32, help="M, vectors of the code (default: 2048)")
    parser.add_argument("--size", type=int, default=256, help="d_z, coordinates of a vector (default: 256)")
    parser.add_argument("--group", type=int, default=32, help="coordinates that share a scale (default: 32)")
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
    timings = interleaved(steps, options.repeats, 2, options.device)
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
    results = measure(options)
    title = f"a code of {options.vectors} vectors of {options.size}, groups of {options.group}"
    show(title, list(results[0]), [list(row.values()) for row in results], f"Target: {TARGET:g} MB/s.")
    report(options.json, options.device, {k: v for k, v in vars(options).items() if k != "json"}, results)


if __name__ == "__main__":
    main()
