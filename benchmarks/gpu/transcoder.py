"""A crosslayer transcoder of GPT-2 (12 layers, 768 -> 6,144) trains at 150,000 tokens per second or more on one H200.

    python benchmarks/gpu/transcoder.py                    # needs 40 GB: the dense mask stands beside it

The number is that of ours by density, forward and backward pass without the optimizer, products in bfloat16.
"""

from __future__ import annotations

from typing import Any

from check import Results, run

import transcoder as benchmark  # isort: skip  # that of the folder above

TARGET = 150_000
FIXED = {
    "768": [
        *["--layers", "12", "--features", "6144", "--tokens", "4000", "--k", "20", "--dtype", "bfloat16"],
        *["--tables", "speed", "--ways", benchmark.MASKED, *benchmark.LIMITS, "--repeats", "7"],
    ]
}


def verdict(results: Results) -> dict[str, Any]:
    ways = {row["way"]: row for row in results}
    reached = ways[benchmark.SWITCH]["tokens/s"]
    faster = ways[benchmark.SWITCH]["times faster than the first"]
    return {"tokens/s": reached, "times the dense mask": faster, "target": TARGET, "met": reached >= TARGET}


if __name__ == "__main__":
    run(__doc__, FIXED, benchmark.new_parser, benchmark.measure, verdict)
