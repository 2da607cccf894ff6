"""What the tests of engines share: commands for a tiny lens, and how several processes are started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from extracting import ROOT, saved_model

STEPS, SAVED = 4, 2
PROCESSES = 2
WORDS = [
    *["--use_cpu", "--code_length", "3", "--prompt", "w1 <A> w2", "--warm_steps", "2", "--max_steps", str(STEPS)],
    *["--per_device_train_batch_size", "6", "--per_device_eval_batch_size", "16", "--eval_strategy", "steps"],
    *["--eval_steps", "2", "--save_steps", str(SAVED), "--eval_rows", "16", "--sample_rows", "8"],
    *["--logging_steps", "1", "--kl_horizon", "2", "--rollouts", "2", "--learning_rate", "1e-3", "--weight_decay"],
    *["0.01", "--disable_tqdm", "true", "--report_to", "none"],
]
PLAIN = ["--tail_baseline", "false"]
LORA = ["--trainable", "lora", "--lora_rank", "4", *PLAIN]
TERMS = ["loss", "loss/start", "loss/mse", "loss/kl", "loss/policy", "loss/reference"]
JUDGED = ["eval_kl_recovered", "eval_fve", "eval_top1", "eval_cosine"]
LAUNCHED = Path(__file__).with_name("launched.py")


def words_for(rows: Path, folder: Path, *more: str) -> list[str]:
    named = ["--model_name_or_path", str(saved_model()), "--activations", str(rows), "--output_dir", str(folder)]
    return ["train", *named, *WORDS, *more]


def engine_words(engine: str) -> list[str]:
    """Options of `run_lens.py` that ask for an engine; the others are asked for by the launcher."""
    return ["--deepspeed", str(ROOT / f"ds_configs/{engine}.json")] if engine.startswith("zero") else []


def start(engine: str, commands: list[list[str]], place: Path, **environment: str) -> subprocess.Popen[str]:
    """The commands in turn, under an engine; what is printed goes to `place/said`."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "commands.json").write_text(json.dumps(commands))
    zero = ["--deepspeed"] if engine.startswith("zero") else []
    if engine == "alone":
        by: list[str] = []
    elif zero:
        by = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(PROCESSES)]
    else:
        config = str(ROOT / f"ds_configs/{engine}.yaml")
        by = ["-m", "accelerate.commands.launch", "--config_file", config, "--main_process_port", "0"]
    log = (place / "said").open("w")
    return subprocess.Popen(
        [sys.executable, *by, str(LAUNCHED), str(place / "commands.json"), *zero],
        stdout=log,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"} | environment,
    )


def launch(engine: str, commands: list[list[str]], place: Path) -> str:
    """Run the commands to their end; returns what was said. That gloo aborts when all is done is no failure."""
    code = start(engine, commands, place).wait(timeout=900)
    said = (place / "said").read_text()
    assert code == 0 or "destroy_process_group" in said, said[-6000:]
    return said


def history(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "history.json").read_text())


def logged(folder: Path, *names: str) -> dict[str, list[float]]:
    """Name -> its values over the steps."""
    rows = history(folder)
    return {name: [row[name] for row in rows if name in row] for name in names}


def witness(folder: Path) -> list[dict[str, Any]]:
    """What each process wrote down."""
    found = sorted((folder / "witness").glob("witness-*.json"))
    return [json.loads(path.read_text()) for path in found]


def same(found: dict[str, list[float]], expected: dict[str, list[float]]) -> None:
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=2e-5, abs=2e-6), name
