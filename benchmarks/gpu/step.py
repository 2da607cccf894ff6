"""A step takes at most 1.15 of its bare parts: 0.6B and 8B sizes, LoRA, T = 16, contexts of 128 tokens, lm term on.

python benchmarks/gpu/step.py                          # needs 100 GB for the 8B size: its bare parts are copies
python benchmarks/gpu/step.py --sizes qwen3-0.6b
"""

from __future__ import annotations

from typing import Any

from check import Results, run

import step as benchmark  # isort: skip  # that of the folder above

TARGET = 1.15
COMMON = [
    *["--dtype", "bfloat16", "--trainable", "lora", "--estimators", "policy", "--length", "16", "--context", "128"],
    *["--lm_weight", "0.02", "--memory", "--repeats", "7", "--budget", "120"],
]
FIXED = {"qwen3-0.6b": [*COMMON, "--rows", "32"], "llama-3.1-8b": [*COMMON, "--rows", "8"]}


def verdict(results: Results) -> dict[str, Any]:
    ratio = results[0]["all"]["ratio by round"]
    five, share = results[0]["five"]["ratio by round"], results[0]["rollout share"]
    return {"ratio": ratio, "over five parts": five, "rollout share": share, "target": TARGET, "met": ratio <= TARGET}


if __name__ == "__main__":
    run(__doc__, FIXED, benchmark.new_parser, benchmark.measure, verdict)
