"""A whole run of a tiny lens, made once for all that look at it, and the words of others like it."""

from __future__ import annotations

import json
import os
import re
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.parquet as pq
from extracting import random_texts, run, saved_model, write_jsonl

PROMPT = "w1 <A> w2"
CLOCKS = re.compile(r"runtime|per_second|seconds|minutes|hours|duration|_time|flops_util|memory")
# A run that was resumed cost more, and a report took its own time.
CLOCKS_OF_A_CARD = re.compile(r"(?m)^\| (CPU hours|speed|peak memory) \|.*$|, in [\d.,]+ s\b")
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


def words_to(place: Path, *more: str) -> list[str]:
    """A whole run in a folder, on `texts.jsonl` beside it, which goes on wherever it was killed."""
    named = ["--model_name_or_path", str(saved_model()), "--train_file", str(place.parent / "texts.jsonl")]
    folders = ["--output_dir", str(place / "run"), "--activations_dir", str(place / "rows"), "--ema_decay", "0.9"]
    return [*named, *folders, *ROWS, *SMALL, "--documents_per_shard", "32", "--resume_from_checkpoint", "auto", *more]


def without_clocks(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_clocks(item) for key, item in value.items() if not CLOCKS.search(key)}
    return [without_clocks(item) for item in value] if isinstance(value, list) else value


def ended(place: Path) -> dict[str, Any]:
    """All that a run leaves for people and for later, but what a clock says."""
    found: dict[str, Any] = {}
    for name in ("rows", "run/lens", "run/lens-ema", "run/tail_lens", "run/warm_lens"):
        for file in sorted((place / name).rglob("*.*")):
            if file.suffix in (".safetensors", ".arrow"):
                found[str(file.relative_to(place))] = file.read_bytes()
    for name in ("run/history.json", "run/report/report.json"):
        found[name] = without_clocks(json.loads((place / name).read_text()))
    for file in sorted((place / "run").rglob("*.parquet")):
        if "checkpoint-" not in str(file):
            found[str(file.relative_to(place))] = pq.read_table(file).to_pylist()
    for name in ("rows/README.md", "run/report/report.md", "run/lens/README.md"):
        found[name] = CLOCKS_OF_A_CARD.sub("", (place / name).read_text())
    return found


def require_same(place: Path, undisturbed: Path) -> None:
    found, expected = ended(place), ended(undisturbed)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == value, f"{name}: {_apart(found[name], value)}"


def _apart(found: Any, expected: Any) -> str:
    """The lines of one text that the other has not."""
    if not isinstance(found, str):
        return ""
    return "\n".join([*({*found.splitlines()} ^ {*expected.splitlines()})])
