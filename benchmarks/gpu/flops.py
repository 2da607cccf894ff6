"""The teacher-forced pass and the encoder reach 40 % of the card: 0.6B and 8B sizes, LoRA, large batches.

python benchmarks/gpu/flops.py                         # of the speed of one large matrix product, measured here
python benchmarks/gpu/flops.py --more --peak_tflops 989    # of what the data sheet says
"""

from __future__ import annotations

from typing import Any

from check import Results, run

import step as benchmark  # isort: skip  # that of the folder above

TARGET = 0.4
COMMON = [
    *["--dtype", "bfloat16", "--trainable", "lora", "--estimators", "policy", "--length", "16", "--context", "128"],
    *["--repeats", "5", "--budget", "120"],
]
FIXED = {"qwen3-0.6b": [*COMMON, "--rows", "64"], "llama-3.1-8b": [*COMMON, "--rows", "16"]}


def verdict(results: Results) -> dict[str, Any]:
    reached = {part: speed["ours"] for part, speed in results[0]["of peak"].items()}
    return {"of peak": reached, "target": TARGET, "met": min(reached.values()) >= TARGET}


if __name__ == "__main__":
    run(__doc__, FIXED, benchmark.new_parser, benchmark.measure, verdict)
