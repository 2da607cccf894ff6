"""Checkpoints from somebody else: pickles beside their weights."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import torch

from consistency_lens.base.saving.pickles import require_plain

from .mutations import spoil_bytes


class Runs:
    """Whoever reads it as a pickle makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.marker,)


def states(folder: Path, random: Random) -> str:
    """States of an optimizer that would run code, or are damaged."""
    name = random.choice(["optimizer.pt", "scheduler.pt", "rng_state.pth", "global_step1/states.pt"])
    path, marker = folder / name, folder / "ran"
    path.parent.mkdir(exist_ok=True)
    state: Any = {"state": {0: {"exp_avg": torch.zeros(8)}}, "param_groups": [{"lr": 1e-3, "params": [0]}]}
    hostile = random.random() < 0.5
    if hostile:
        state = random.choice([Runs(marker), [Runs(marker)], state | {"more": Runs(marker)}, {Runs(marker): 1}])
    torch.save(state, path)
    if hostile and random.random() < 0.3:
        with zipfile.ZipFile(path, "w", random.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
            archive.writestr("x/data.pkl", pickle.dumps(state, protocol=random.randrange(6)))
    done = name if hostile else spoil_bytes(path, random)
    try:
        require_plain(folder)
        assert not hostile, "it was taken for plain"
    finally:
        assert not marker.exists(), "it ran"
    return done
