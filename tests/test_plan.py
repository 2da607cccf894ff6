"""`run_lens.py plan`: from a folder that holds a `config.json` and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from consistency_lens import cli
from consistency_lens.cli.recipes import as_recipe

MID: dict[str, Any] = {
    "vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    config = AutoConfig.for_model("llama", **MID)
    config.dtype = "bfloat16"
    config.save_pretrained(path)
    assert [file.name for file in path.iterdir()] == ["config.json"]
    return path


def words_for(folder: Path, *more: str) -> list[str]:
    return ["plan", "--config", "llama3_8b_lora", "--model_name_or_path", str(folder), *more]


def record_of(folder: Path, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    assert cli.main(words_for(folder, "--json", *more)) == 0
    return json.loads(capsys.readouterr().out)


def test_a_plan_is_a_recommendation_that_fits(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = record_of(folder, capsys, "--gpu_memory", "80", "--gpu_price", "2")
    best = record["recommended"]
    assert record["sizes"]["weights"] == 8_030_261_248 and record["assumed"]["steps"] == 12_000
    assert best["trainable"] == "lora" and best["quantization"] == "none" and best["weights"] == "whole"
    assert best["per_device_train_batch_size"] * best["gradient_accumulation_steps"] == 64
    assert best["memory_gb"] <= 72 and best["memory_gb"] == pytest.approx(sum(best["memory"].values()) / 1e9)
    assert best["price"] == pytest.approx(2 * (best["hours"] + best["baseline_hours"]))
    assert record["as_it_stands"]["fits"] and record["as_it_stands"]["activation_checkpointing"]


def test_less_memory_packs_the_subject(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert record_of(folder, capsys, "--gpu_memory", "16")["recommended"]["quantization"] == "4bit"


def test_what_an_option_names_is_settled(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ("--quantization", "8bit", "--per_device_train_batch_size", "4", "--gpus", "2")
    best = record_of(folder, capsys, *more)["recommended"]
    assert (best["quantization"], best["per_device_train_batch_size"]) == ("8bit", 4)
    assert best["gradient_accumulation_steps"] * 4 * 2 == 4 * 8  # the recipe's accumulation, on two GPUs


def test_people_get_a_table_and_a_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words_for(folder)) == 0
    said = capsys.readouterr().out
    assert "8.03 billion weights" in said and "accelerate launch run_lens.py --trainable lora" in said
    for item in ("subject", "Adam's moments", "vocabulary", "rollout", "teacher-forced"):
        assert item in said


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--gpu_memory", "8"], "gpu_memory=7.2: the least that these fields allow takes"),
        (["--trainable", "full"], "--trainable lora"),
        (["--gpu_memory", "0"], "gpu_memory=0.0."),
        (["--gpus", "0"], "gpus=0."),
        (["--utilization", "1.5"], "utilization=1.5."),
        (["--sites", "resid_post.1", "resid_post.2"], "a lens reads one site"),
        (["--gpu_memry", "8"], "Did you mean '--gpu_memory'?"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_what_cannot_be_planned_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    assert cli.main(words_for(folder, *more)) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert said in err and "Traceback" not in err


def test_a_model_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words_for(tmp_path / "nothing")) == 2
    assert "model_name_or_path=" in capsys.readouterr().err


def test_a_run_says_nothing_of_plans() -> None:
    values = cli.parse(["train"]).values
    assert "gpu_memory" not in as_recipe(values)
    assert "gpu_memory: 24.0" in as_recipe(values | {"gpu_memory": 24.0})
