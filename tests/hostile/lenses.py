"""Lenses that somebody else has made: their configurations, records and files."""

from __future__ import annotations

import shutil
import sys
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from extracting import saved_model
from lens_runs import stirred, tiny_lens
from tiny import shared_lm

from consistency_lens import AutoLens, FrozenLM
from consistency_lens.sparse.modeling import CrosslayerTranscoder

from .mutations import spoil_bytes, spoil_json

sys.path.insert(0, str(Path(__file__).parents[1] / "sparse"))

from transcoders import small_lens  # isort: skip

TEXT = "w1 w2 w3"


@cache
def _kept() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="consistency-lens-hostile-")


def home() -> Path:
    """Where what works is kept, for all cases to spoil a copy of it."""
    return Path(_kept().name)


@cache
def subject() -> FrozenLM:
    return FrozenLM.from_pretrained(saved_model())


@cache
def saved_lens(trainable: str) -> Path:
    """A small lens that works."""
    folder = home() / trainable
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


@cache
def saved_transcoder(kind: str) -> Path:
    """A small one that works."""
    folder = home() / f"transcoder-{kind}"
    settings: dict[str, dict[str, Any]] = {"plain": {}, "tied": {"tied_decoder": True}, "own": {"crosslayer": False}}
    small_lens(**settings[kind]).save_pretrained(folder)
    return folder


def transcoder(folder: Path, random: Random) -> str:
    """A configuration of a transcoder, or one of its files, in which a few things are otherwise."""
    lens = shutil.copytree(saved_transcoder(random.choice(["plain", "tied", "own"])), folder / "lens")
    spoil = spoil_json if random.random() < 0.8 else spoil_bytes
    done = spoil(lens / "config.json" if spoil is spoil_json else lens / "model.safetensors", random)
    CrosslayerTranscoder.from_pretrained(lens, subject=shared_lm("llama"))
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
