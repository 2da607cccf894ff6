"""Lenses that somebody else has made: their configurations, records and files."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from extracting import saved_model
from lens_runs import stirred, tiny_lens

from consistency_lens import AutoLens, FrozenLM

from .mutations import spoil_bytes, spoil_json

TEXT = "w1 w2 w3"


@cache
def _home() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="consistency-lens-hostile-")


@cache
def subject() -> FrozenLM:
    return FrozenLM.from_pretrained(saved_model())


@cache
def saved_lens(trainable: str) -> Path:
    """A small lens that works."""
    folder = Path(_home().name) / trainable
    stirred(tiny_lens(FrozenLM.from_pretrained(saved_model()), trainable=trainable)).save_pretrained(folder)
    return folder


def load(folder: Path, alone: bool) -> None:
    """Load a lens, and let it say something."""
    if alone:
        AutoLens.from_pretrained(folder, subject=FrozenLM.from_pretrained(saved_model())).explain(TEXT)
        return
    from consistency_lens import ConsistencyLens

    ConsistencyLens.from_pretrained(folder)


def configuration(folder: Path, random: Random) -> str:
    """A configuration in which a few things are otherwise."""
    kind = random.choice(["projections", "lora", "full"])
    lens = shutil.copytree(saved_lens(kind), folder / "lens")
    done = spoil_json(lens / "config.json", random)
    load(lens, alone=kind != "full" or random.random() < 0.5)
    return done


def files(folder: Path, random: Random) -> str:
    """A file that is damaged, missing, or a folder."""
    kind = random.choice(["projections", "lora", "full"])
    lens = shutil.copytree(saved_lens(kind), folder / "lens")
    path = random.choice(sorted(path for path in lens.rglob("*") if path.is_file()))
    match random.random():
        case roll if roll < 0.1:
            path.unlink()
            done = f"{path.name} is gone"
        case roll if roll < 0.2:
            path.unlink()
            path.mkdir()
            done = f"{path.name} is a folder"
        case _:
            done = spoil_bytes(path, random)
    load(lens, alone=kind != "full" or random.random() < 0.5)
    return done
