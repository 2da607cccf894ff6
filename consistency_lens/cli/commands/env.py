"""`run_lens.py env`: what a bug report needs to say about the machine and its packages."""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

import torch

from ...version import PROJECT, own_version
from ..opening import console
from ..parsing.request import Request

REQUIRED = ("torch", "transformers", "accelerate", "datasets", "peft", "huggingface_hub", "safetensors", "tokenizers")
OPTIONAL = ("deepspeed", "bitsandbytes", "flash_attn", "gguf", "gradio", "trackio", "wandb", "tensorboard")


def facts() -> dict[str, str]:
    """Name -> what is true here; a package that is missing is named as missing."""
    found = {
        PROJECT: own_version(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "CPU cores": str(os.cpu_count()),
        "CPU threads": str(torch.get_num_threads()),
        "CUDA": torch.version.cuda or "none",
    }
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        found[f"GPU {i}"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    return found | {name: _version(name) for name in (*REQUIRED, *OPTIONAL)}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def show_environment(request: Request) -> None:
    """Print the facts, one to a line, or as JSON."""
    found = facts()
    if request.explanation.json:
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
        return
    width = max(map(len, found))
    for name, value in found.items():
        console.print(f"{name:<{width}}  {value}", highlight=False, markup=False)
