"""Telling a whole checkpoint from one that was cut off."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import TrainerState

from ... import hub
from ...errors import BadInput
from ...schema import many, maybe, named, no_other, number, plain, read_json, record, text, whole
from .pickles import require_plain

STATE, ENGINE, ARGUMENTS = "trainer_state.json", "engine.json", "training_args.json"
OTHER = "Resume from another checkpoint."
# Of what transformers goes on from, the fields that decide how far a run is.
_STATE = record(
    {"global_step": whole()},
    {
        **{each.name: plain for each in fields(TrainerState)},
        **dict.fromkeys(["num_train_epochs", "save_steps", "eval_steps", "logging_steps"], maybe(number(0))),
        **dict.fromkeys(["max_steps", "best_global_step", "train_batch_size"], maybe(whole(-1))),
        **dict.fromkeys(["epoch", "total_flos"], maybe(number(0))),
        "log_history": many(record({}, {"step": whole()})),
        "best_model_checkpoint": maybe(text(longest=1000)),
        "stateful_callbacks": named(plain),
    },
    rest=no_other,
)
# Which engine wrote it, and with how many processes.
ENGINE_KIND = record(
    {"name": text(r"\w{1,32}", "the name of an engine"), "processes": whole(1, 1 << 20)},
    {"copies": whole(1, 1 << 20)},
    rest=no_other,
)
# A folder run/checkpoint-40 that is not there is no repository of that name.
_ON_HUB = re.compile(r"(?P<repo>[\w.-]+/(?!checkpoint-\d+$)[\w.-]+)(?:/(?P<name>last-checkpoint|checkpoint-\d+))?")
# torch reads these as numbers alone (`weights_only`). Whatever else of the kind lies there is not downloaded.
_STATES = ("optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state*.pth")
_NEEDED = ("optimizer.pt", "scheduler.pt")


def find_checkpoint(
    given: str, repo: str | None = None, revision: str | None = None, token: str | None = None
) -> Path:
    """The folder of a checkpoint; one on the Hub is downloaded.

    Args:
        given: a folder; `last-checkpoint`, of `repo`; or, as in owner/name or owner/name/checkpoint-40, on the Hub.
        repo: where the run pushes to.
        revision: branch, tag or commit of what is on the Hub.
        token: for a private repository. Default: of this machine.
    """
    if Path(given).is_dir() or (given != hub.LAST_CHECKPOINT and Path(given).parent.is_dir() and "/" in given):
        return Path(given)
    found = _ON_HUB.fullmatch(given)
    if given == hub.LAST_CHECKPOINT:
        if repo is None:
            fix = "Name its repository, too: --hub_model_id owner/name."
            raise BadInput("resume_from_checkpoint", given, fix, why="there is no such folder")
        name = given
    elif found:
        repo, name = found["repo"], found["name"] or hub.LAST_CHECKPOINT
    else:
        return Path(given)
    allowed = [f"{name}/{pattern}" for pattern in (*hub.LENS_FILES, *_STATES, "*.md")]
    folder = hub.download(str(repo), revision, token, "resume_from_checkpoint", allowed, ()) / name
    if not folder.is_dir():
        fix = "Runs with --hub_strategy checkpoint push one."
        raise BadInput("resume_from_checkpoint", given, fix, why=f"{repo} holds no {name}")
    missing = [file for file in _NEEDED if not (folder / file).is_file()]
    if missing:
        fix = "Download its folder yourself, and resume from there."
        raise BadInput("resume_from_checkpoint", given, fix, why=f"{missing[0]} is not in {name} of {repo}")
    return folder


def is_complete(folder: Path) -> bool:
    """Whether a checkpoint was written to its end: its state comes last, and every tensor file can be opened."""
    return not _damage(folder)


def _damage(folder: Path) -> str:
    """What is wrong with a checkpoint, if anything."""
    cut_off = "it was cut off while it was written"
    try:
        read_json(folder / STATE, _STATE, "resume_from_checkpoint", folder.name, OTHER)
        for file in folder.rglob("*.safetensors"):
            with safe_open(file, "pt") as tensors:
                tensors.keys()
        # torch's files are archives whose table of contents comes last.
        kinds = ("*.pt", "*.pth", "*.bin")
        if not all(is_zipfile(file) for kind in kinds for file in folder.rglob(kind)):
            return cut_off
        states = len([*folder.glob("rng_state_*.pth")])  # each process wrote its own
        if states and (folder / ENGINE).is_file() and states != _processes(folder):
            return cut_off
    except BadInput as error:
        return f"{cut_off}, or changed since: {error.why}"
    except (OSError, ValueError, SafetensorError):
        return cut_off
    return ""


def _processes(folder: Path) -> int:
    """How many wrote it together."""
    return int(read_json(folder / ENGINE, ENGINE_KIND, "resume_from_checkpoint", folder.name, OTHER)["processes"])


def checkpoints(run: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    return [folder for folder in _in_order(run) if is_complete(folder)]


def _in_order(run: Path) -> list[Path]:
    found = [folder for folder in run.glob("checkpoint-*") if folder.name.rpartition("-")[2].isdigit()]
    return sorted(found, key=lambda folder: int(folder.name.rpartition("-")[2]))


def how_to_go_on(run: Path) -> str:
    """What of an interrupted run is kept."""
    found = checkpoints(run)
    if not found:
        return "There is no checkpoint yet: start again."
    return f"Nothing is lost up to {found[-1].name}: --resume_from_checkpoint {found[-1]} goes on from there."


def keep_in_order(newest: Path) -> None:
    """Let the dates of a run's checkpoints say their order, ahead of one that is about to be written.

    transformers takes away those with the oldest dates; after the clock was set back, that would be the newest.
    """
    others = [folder for folder in _in_order(newest.parent) if folder != newest]
    dates, now = [folder.stat().st_mtime for folder in others], time.time()
    if dates == sorted(dates) and all(date <= now for date in dates):
        return
    for age, folder in enumerate(reversed(others), 1):
        os.utime(folder, (now - 60 * age,) * 2)


def require_complete(folder: Path) -> None:
    """Raise where a checkpoint is missing, was cut off, or holds code; name the newest whole one beside it."""
    why = _damage(folder) if folder.is_dir() else "there is no such folder"
    if not why:
        require_plain(folder)
        return
    others = [other.name for other in checkpoints(folder.parent)]
    fix = f"Resume from {others[-1]} instead." if others else "Start again; there is no whole checkpoint beside it."
    raise BadInput("resume_from_checkpoint", folder.name, fix, why)


def save_batch(inputs: Mapping[str, Any], path: Path) -> None:
    """A batch to be looked at, as numbers and no pickle; tensors within a dict go under their own names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.cpu().contiguous() for name, tensor in _tensors_of(inputs)}, path)


def _tensors_of(inputs: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in inputs.items():
        if isinstance(value, Mapping):
            yield from _tensors_of(value)
        elif isinstance(value, torch.Tensor):
            yield name, value
