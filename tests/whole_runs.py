"""A whole run of a tiny lens, made once for all that look at it, and the words of others like it."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from extracting import random_texts, run, saved_model, write_jsonl

PROMPT = "w1 <A> w2"
ROWS = ["--min_position", "4", "--validation_fraction", "0.2", "--test_fraction", "0.2", "--sites", "resid_post.1"]
SMALL = [
    *["--use_cpu", "--code_length", "3", "--prompt", PROMPT, "--warm_steps", "2", "--max_steps", "4"],
    *["--per_device_train_batch_size", "6", "--per_device_eval_batch_size", "16", "--eval_strategy", "steps"],
    *["--eval_steps", "2", "--save_steps", "2", "--eval_rows", "32", "--sample_rows", "8", "--logging_steps", "1"],
    *["--kl_horizon", "2", "--rollouts", "2", "--report_rows", "24"],
]


@cache
def _home() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="consistency-lens-runs-", ignore_cleanup_errors=True)


@cache
def whole_run() -> Path:
    """The folder of a whole run, under the name that it gave itself; `texts.jsonl` lies two folders above."""
    place = Path(_home().name)
    texts = write_jsonl(place / "texts.jsonl", random_texts(80, shortest=8, longest=24))
    words = ["--model_name_or_path", str(saved_model()), "--train_file", str(texts), *ROWS, *SMALL]
    code, said = run([*words, "--ema_decay", "0.9", "--learning_rate", "3e-4"], place / "log", os.chdir, place)
    assert code == 0, said
    (folder,) = (place / "outputs").glob("*_t3_*")
    return folder


def words_for(rows: Path, folder: Path, *more: str, model: Path | None = None) -> list[str]:
    named = ["--model_name_or_path", str(model or saved_model()), "--activations", str(rows)]
    return ["train", *named, "--output_dir", str(folder), *SMALL, *more]


def rows_of(made: Path) -> Path:
    (rows,) = made.parent.glob("*-activations")
    return rows


def losses(folder: Path) -> list[tuple[int, float]]:
    history = json.loads((folder / "history.json").read_text())
    return [(row["step"], row["loss"]) for row in history if "loss" in row]
