"""`import consistency_lens` is cheap: no optional package, no Trainer, no data sets, next to no time."""

import json
import subprocess
import sys

import pytest

OPTIONAL = [
    "gradio",
    "bitsandbytes",
    "gguf",
    "starlette",
    "uvicorn",
    "deepspeed",
    "flash_attn",
    "wandb",
    "trackio",
    "tensorboard",
    "matplotlib",
]
FAMILIES = {"consistency_lens", "crosslayer_transcoder", "latent_wire"}
HEAVY = ["transformers.trainer", "datasets", "evaluate", "peft"]
BUDGET_S = 0.5  # beyond torch and transformers


def in_a_fresh_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_brings_along_nothing_optional_or_heavy() -> None:
    loaded = json.loads(in_a_fresh_process("import json, sys, consistency_lens; print(json.dumps(list(sys.modules)))"))
    assert "consistency_lens" in loaded
    assert sorted(set(OPTIONAL + HEAVY) & set(loaded)) == []


def test_it_takes_no_time_beyond_torch_and_transformers() -> None:
    code = (
        "import time, torch, transformers\n"
        "start = time.perf_counter()\n"
        "import consistency_lens\n"
        "print(time.perf_counter() - start)"
    )
    seconds: list[float] = []
    while len(seconds) < 4 and min(seconds, default=BUDGET_S) >= BUDGET_S:  # a busy machine gets another try
        seconds.append(float(in_a_fresh_process(code)))
    assert min(seconds) < BUDGET_S, f"import consistency_lens took {seconds} s, best of {len(seconds)}"


@pytest.mark.parametrize("name", ["AutoLens", "LatentWire"])
def test_transformers_knows_the_families(name: str) -> None:
    """`AutoLens` brings all of them, a lens class its own; `import consistency_lens` alone imports no transformers."""
    code = (
        f"from consistency_lens import {name}\n"
        "from transformers import CONFIG_MAPPING\n"
        f"print(*sorted({FAMILIES} & set(CONFIG_MAPPING.keys())))"
    )
    assert in_a_fresh_process(code).split() == (sorted(FAMILIES) if name == "AutoLens" else ["latent_wire"])
