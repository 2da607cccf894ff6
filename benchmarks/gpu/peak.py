"""Peak memory of the 8B size, LoRA of rank 64, batch 32, T = 16: at most 40 GB in bfloat16, 20 GB in 4 bits.

    python benchmarks/gpu/peak.py                          # the 4-bit way needs 16 GB of disk for a moment
    python benchmarks/gpu/peak.py --more --checkpointing   # blocks recomputed in the backward pass

Beside each figure stands what the arithmetic of `run_lens.py plan` says, which has to be within 15 %.
"""

from __future__ import annotations

from typing import Any

from check import Results, run

import memory as benchmark  # isort: skip  # that of the folder above

TARGETS = {"lora": 40_000, "lora, 4-bit": 20_000}  # MB
WITHIN = 0.15
FIXED = {
    "llama-3.1-8b": [
        *["--ways", *TARGETS, "--dtype", "bfloat16", "--lora_rank", "64", "--rows", "32", "--length", "16"],
        *["--context", "128", "--horizon", "8"],
    ]
}


def verdict(results: Results) -> dict[str, Any]:
    found = {row["way"]: row["peak MB"] for row in results}
    off = {row["way"]: row["plan / measured"] - 1 for row in results}
    return {
        "peak MB": found,
        "target": TARGETS,
        "met": all(peak <= TARGETS[way] for way, peak in found.items()),
        "plan off by": off,
        "plan within 15 %": all(abs(error) <= WITHIN for error in off.values()),
    }


if __name__ == "__main__":
    run(__doc__, FIXED, benchmark.new_parser, benchmark.measure, verdict)
