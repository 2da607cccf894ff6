"""Encoders that are trained for comparison. Two read texts that nobody wrote, which a lens has to beat: the last
tokens of the context, and P's token with what the model says next. One reads the lens's own texts anew: what it
restores is in the words for anybody, and what the lens's own encoder restores beyond that is between the two of them.

Each of the first two hangs on the rows, the seed, the length, the objective and the budget, and on nothing that a
decoder writes. So runs that differ in what they ask of words share one: beside the rows stands where it was trained,
and the next run takes it from there, as long as that folder is there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import xxhash
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from transformers.utils import CONFIG_NAME

from ...activations import Activations
from ...activations.storage import PROGRESS, checksum_of, seal_of, write_json
from ...base.engines.engine import Engine
from ...base.family_run import Run
from ...base.saving.lens_card import CARD
from ...errors import BadInput
from ...schema import read_json, record, text
from ...version import own_version
from ..arguments import ConsistencyLensArguments
from ..modeling import ConsistencyLens
from .source import WrittenTexts

TAIL, GREEDY, FRESH = "tail_lens", "greedy_lens", "fresh_lens"  # their folders in that of a run
TEXTS = {TAIL: "context", GREEDY: "onward"}  # folder -> the starting texts that its encoder learns to read
TITLES = {TAIL: "context tail", GREEDY: "greedy text", FRESH: "fresh encoder"}
KEY = "baseline.json"
# Names of this run, and what only chosen words have a part in.
ELSEWHERE = {
    *("output_dir", "run_name", "logging_dir", "project"),
    *("estimator", "rollouts", "temperature", "decoder_learning_rate"),
    *("warm_sure", "warm_vague", "warm_guess_share", "warm_evidence"),
    *(f"{term}_weight" for term in ("lm", "ground", "reference")),
}
OF_TEXTS = {"warm_sure", "warm_vague"}  # what an encoder of what the model says hangs on after all


def baseline_of_run(
    run: Run,
    lens: ConsistencyLens,
    activations: Activations,
    steps: int,
    name: str = TAIL,
    writer: ConsistencyLens | None = None,
) -> None:
    """One baseline of a run: found again where one like it was trained, or trained now.

    Args:
        run: whose lens it is compared with.
        lens: an untrained one.
        activations: the run's rows.
        steps: that the run's own lens took.
        name: `TAIL`, `GREEDY` or `FRESH`.
        writer: the lens whose texts a `FRESH` one learns to read.
    """
    place = run.folder / name
    if run.resumed and (place / CONFIG_NAME).is_file():
        return
    training = run.training(
        place,
        max_steps=steps,
        warm_start=TEXTS.get(name, run.values["warm_start"]),
        warm_steps=0 if run.values["warm_start"] == "none" else run.values["warm_steps"],
        warm_foresight=0,
        quote=True,
        ground_weight="0",
        ema_decay=0.0,
        eval_strategy="no",
        save_total_limit=1,
        sample_steps=0,
        load_best_model_at_end=False,
        report_to="none",
        push_to_hub=False,
    )
    rows = None if run.values["stream_activations"] or writer else _folder_of(activations)
    key = _key(training, lens, activations, ELSEWHERE if name == TAIL else ELSEWHERE - OF_TEXTS)
    note = None if rows is None else rows / PROGRESS / f"baseline-{key}.json"
    found = [PartialState().is_main_process and _taken(run, note, key, place)]
    if broadcast_object_list(found)[0]:
        return
    if PartialState().is_main_process:
        (place / KEY).unlink(missing_ok=True)  # from here on its weights change
    PartialState().wait_for_everyone()
    _train(run, lens, training, activations, place, writer)
    if PartialState().is_main_process:
        write_json(place / KEY, {"key": key, "weights": _checksum(place)})
        if note is not None:
            _keep(note, place)
    PartialState().wait_for_everyone()


def _train(
    run: Run,
    lens: ConsistencyLens,
    training: ConsistencyLensArguments,
    activations: Activations,
    place: Path,
    writer: ConsistencyLens | None,
) -> None:
    """Teach the encoder, with the lens's own objective and as many steps, to read these texts.

    What it restores is what a lens is worth its distance from: the same number of tokens, read as well as can be. Its
    decoder has nothing to learn and stays as it is. Interrupted, it goes on where it was; checkpoints do not stay.
    """
    for parameter in (*lens.decoder.own_parameters().values(), *lens.decoder.map.parameters()):
        parameter.requires_grad_(False)
    trainer: Any = run.trainer(lens, training, activations, TITLES[place.name])
    if writer is not None:
        trainer.texts = WrittenTexts(writer)
    run.train_beside(trainer, place)
    if trainer.is_world_process_zero():
        (place / CARD).unlink(missing_ok=True)  # it is the lens of nobody


def _folder_of(activations: Activations) -> Path | None:
    """Where the rows lie, if they are an extraction's folder."""
    rows = activations.splits["train"]
    if not isinstance(rows, Dataset) or not rows.cache_files:
        return None
    folder = Path(rows.cache_files[0]["filename"]).parents[1]
    return folder if (folder / PROGRESS).is_dir() else None


def _key(
    training: ConsistencyLensArguments, lens: ConsistencyLens, activations: Activations, elsewhere: set[str]
) -> str:
    """Of all that decides what the encoder learns."""
    settings: Mapping[str, Any] = {name: value for name, value in training.to_dict().items() if name not in elsewhere}
    engine = Engine.of(training).name
    processes = (engine, training.world_size, training.device.type, own_version(), torch.__version__)
    parts = [settings, lens.config.to_dict(), dict(activations.metadata), processes]
    return xxhash.xxh3_128(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _taken(run: Run, note: Path | None, key: str, place: Path) -> bool:
    """Whether one like it was found, and is in its place now; whole or not at all."""
    try:
        other = Path(_kept(note, "folder")) if note else None
        if other is None or _kept(other / KEY, "key") != key:
            return False
        if _kept(other / KEY, "weights") != _checksum(other):
            run.say(f"context tail: {other} is not as it was trained (its checksum differs). It is trained again now.")
            return False
        if other != place.resolve():
            part = place.with_name(f".{place.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(other, part)
            shutil.rmtree(place, ignore_errors=True)  # of one that was interrupted
            part.replace(place)
    except (OSError, ValueError):  # a `BadInput` is one
        return False
    run.say(f"{TITLES[place.name]}: trained before, with the same seed, rows and budget, in {other}")
    return True


def _checksum(place: Path) -> str:
    """Of its configuration and weights."""
    files = sorted(file for file in place.rglob("*") if file.suffix == ".safetensors" or file.name == CONFIG_NAME)
    return seal_of({file.relative_to(place).as_posix(): checksum_of(file) for file in files})


def _kept(file: Path, name: str) -> str:
    """What was noted under one name."""
    kind = record({name: text(longest=4096)})
    return str(read_json(file, kind, "output_dir", file.name, "It is trained again.")[name])


def _keep(note: Path, place: Path) -> None:
    """Where nobody may write beside the rows, the next run trains its own."""
    try:
        write_json(note, {"folder": str(place.resolve())})
    except (OSError, BadInput):
        return
