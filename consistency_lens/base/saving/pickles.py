"""Pickles beside a checkpoint: they may hold tensors and plain values. What would run code on reading is refused
before anything is read."""

from __future__ import annotations

import pickle
from pathlib import Path
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint
from transformers.trainer_pt_utils import safe_globals

from ...errors import BadInput

_KINDS = ("*.pt", "*.pth", "*.bin")
# DeepSpeed reads its own, in a folder of theirs, as pickles, and keeps objects of these packages in them.
_OF_AN_ENGINE = ("torch.", "deepspeed.", "numpy.")
# What reading a pickle raises where it is no checkpoint of torch's; none of it has run anything.
_DAMAGE = (
    *(ArithmeticError, AssertionError, AttributeError, BadZipFile, EOFError, LookupError, OSError),
    *(RuntimeError, TypeError, ValueError, pickle.UnpicklingError),
)


def require_plain(checkpoint: Path) -> None:
    """Raise where a file of a checkpoint holds anything but tensors and plain values."""
    for path in sorted(path for kind in _KINDS for path in checkpoint.rglob(kind)):
        if why := _odd(path, of_an_engine=path.parent != checkpoint):
            fix = "Resume from another checkpoint, one that this machine has written; nothing of this file was run."
            name = path.relative_to(checkpoint)
            raise BadInput("resume_from_checkpoint", checkpoint.name, fix, why=f"{name} {why}")


def _odd(path: Path, of_an_engine: bool) -> str:
    """What is wrong with a file, if anything."""
    try:
        with ZipFile(path) as archive:
            if any(entry.compress_type != ZIP_STORED for entry in archive.infolist()):
                return "is packed, as torch never writes it"
        with safe_globals():  # what numpy's random states are made of, as transformers allows it
            foreign = get_unsafe_globals_in_checkpoint(path)
            if of_an_engine:
                foreign = [name for name in foreign if not name.startswith(_OF_AN_ENGINE)]
            if foreign:
                return f"would run code of {', '.join(foreign)[:200]}"
            if not of_an_engine:  # by its structure alone: no tensor is read
                torch.load(path, map_location="meta", weights_only=True, mmap=True)
    except _DAMAGE as error:
        return f"cannot be read: {str(error).splitlines()[0][:200] if str(error) else type(error).__name__}"
    return ""
