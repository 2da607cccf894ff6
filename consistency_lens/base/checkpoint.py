"""Telling a whole checkpoint from one that was cut off."""

from __future__ import annotations

import json
from pathlib import Path
from zipfile import is_zipfile

from safetensors import SafetensorError, safe_open

from ..errors import BadInput

STATE = "trainer_state.json"


def is_complete(folder: Path) -> bool:
    """Whether a checkpoint was written to its end: its state comes last, and every tensor file can be opened."""
    try:
        json.loads((folder / STATE).read_text(encoding="utf-8"))
        for file in folder.rglob("*.safetensors"):
            with safe_open(file, "pt") as tensors:
                tensors.keys()
        # torch's files are archives whose table of contents comes last.
        if not all(is_zipfile(file) for file in [*folder.glob("*.pt"), *folder.glob("*.pth")]):
            return False
    except (OSError, ValueError, SafetensorError):
        return False
    return True


def checkpoints(run: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    found = [folder for folder in run.glob("checkpoint-*") if folder.name.rpartition("-")[2].isdigit()]
    return sorted((f for f in found if is_complete(f)), key=lambda f: int(f.name.rpartition("-")[2]))


def require_complete(folder: Path) -> None:
    """Raise where a checkpoint is missing or was cut off half-way; name the newest whole one beside it."""
    if folder.is_dir() and is_complete(folder):
        return
    others = [other.name for other in checkpoints(folder.parent)]
    fix = f"Resume from {others[-1]} instead." if others else "Start again; there is no whole checkpoint beside it."
    why = "it was cut off while it was written" if folder.is_dir() else "there is no such folder"
    raise BadInput("resume_from_checkpoint", folder.name, fix, why)
