"""`run_lens.py plan`: from a folder that holds a `config.json` and nothing else."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoConfig

from consistency_lens import cli
from consistency_lens.cli.parsing.recipes import as_recipe
from consistency_lens.demo.pages.keeper import KeeperConfig, paged_config
from consistency_lens.demo.pages.model import PagedLlamaForCausalLM
from consistency_lens.demo.subject import new_model
from consistency_lens.demo.tokenizer import build_tokenizer
from consistency_lens.demo.training import SubjectConfig

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
    assert "8.03 billion weights" in said and "accelerate launch run_lens.py --config=llama3_8b_lora" in said
    for item in ("subject", "Adam's moments", "vocabulary", "rollout", "teacher-forced"):
        assert item in said


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--gpu_memory", "8"], "gpu_memory=8.0: the least that these fields allow takes"),
        (["--per_device_train_batch_size", "0"], "per_device_train_batch_size=0. Use 2"),
        (["--per_device_train_batch_size", "-4"], "per_device_train_batch_size=-4. Use 2"),
        (["--gradient_accumulation_steps", "0"], "gradient_accumulation_steps=0. Use 1"),
        (["--rollouts", "0"], "rollouts=0. Use 2"),
        (["--lora_rank", "0"], "lora_rank=0. Use 1"),
        (["--code_length", "-1"], "code_length=-1. Give the explanation at least one token"),
        (["--max_length", "-1"], "max_length=-1: a row takes the token at --min_position"),
        (["--max_length", "9999"], "max_length=9999. The model takes at most 2048 tokens"),
        (["--trainable", "full", "--quantization", "4bit"], "trainable='full': the model is packed, quantization=4"),
        (["--trainable", "full"], "--trainable lora"),
        (["--gpu_memory", "0"], "gpu_memory=0.0."),
        (["--gpus", "0"], "gpus=0."),
        (
            ["--gpus", "12"],
            "gpus=12: machines of 8 cannot have 12 GPUs between them. Use whole machines",
        ),
        (["--gpus_per_machine", "0"], "gpus_per_machine=0."),
        (["--network_bandwidth", "-1"], "network_bandwidth=-1.0."),
        (["--tflops", "nan"], "tflops=nan."),
        (["--gpu_price", "-5"], "gpu_price=-5.0."),
        (["--deepspeed", "ds_configs/zero3.json"], "Leave it out: plan says which engine"),
        (["--utilization", "1.5"], "utilization=1.5."),
        (["--site", "resid_post.99"], "site='resid_post.99'. The model has"),
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


def test_a_model_alone_is_planned_as_extract_would_read_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "--model_name_or_path", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "contexts of 512 tokens" in said and "Name the texts as well" in said


@pytest.mark.parametrize(
    ("recipe", "untrained"),
    [
        ("demo", lambda: new_model(SubjectConfig(), build_tokenizer())),
        ("state_demo", lambda: PagedLlamaForCausalLM(paged_config(KeeperConfig(), build_tokenizer()))),
    ],
    ids=["demo", "state_demo"],
)
def test_an_offline_model_is_planned_and_not_trained(
    recipe: str,
    untrained: Callable[[], torch.nn.Module],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path))
    assert cli.main(["plan", "--config", recipe, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert not any(tmp_path.iterdir())
    assert record["sizes"]["weights"] == sum(p.numel() for p in untrained().parameters())
    assert record["recommended"]["per_device_train_batch_size"] == 48  # the recipe's: no power of two


def test_fields_as_they_stand_are_those_of_every_process(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Eight times eight activations on each of two GPUs; what is recommended keeps to 64 per step."""
    record = record_of(folder, capsys, "--gpus", "2")
    alone = record_of(folder, capsys)["as_it_stands"]
    standing, best = record["as_it_stands"], record["recommended"]
    assert standing["gradient_accumulation_steps"] == 8 == standing["per_device_train_batch_size"]
    assert best["gradient_accumulation_steps"] * best["per_device_train_batch_size"] * 2 == 64
    shared = set(alone["seconds_per_step"]) - {"between cards"}
    assert {name: standing["seconds_per_step"][name] for name in shared} == alone["seconds_per_step"]


def parsed(command: str) -> tuple[list[str], cli.Request]:
    """What starts a run, and what the run would understand."""
    words = shlex.split(command)
    where = words.index("run_lens.py")
    return words[:where], cli.parse(words[where + 1 :])


def test_the_command_does_what_was_planned(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The recipe recomputes blocks; with this much memory the plan does not, and the command has to say so."""
    more = ("--gpu_memory", "500", "--gpus", "2", "--rollouts", "2", "--sites", "resid_post.9", "--hub_token", "hf_x")
    record = record_of(folder, capsys, *more)
    [command] = record["commands"]
    launcher, run = parsed(command)
    assert launcher == ["accelerate", "launch", "--config_file", "ds_configs/ddp.yaml", "--num_processes", "2"]
    asked = cli.parse(words_for(folder, *more)).values
    best = record["recommended"]
    chosen = {name: best[name] for name in best if name in asked}
    assert best["activation_checkpointing"] is False and asked["activation_checkpointing"] is True
    plain = {"gpu_memory": 80.0, "gpus": 1, "hub_token": None}
    assert run.command == "run" and run.values == asked | chosen | plain and "hf_x" not in command


def test_steps_that_were_assumed_are_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "--model_name_or_path", str(folder), "--json"]) == 0
    [command] = json.loads(capsys.readouterr().out)["commands"]
    values = parsed(command)[1].values
    assert (values["max_steps"], values["warm_steps"], values["lora_rank"]) == (12_000, 4_000, 16)


def test_spread_weights_are_a_run_in_stages(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One process reads the rows with the model over all GPUs; no baseline, which is refused where weights are
    spread."""
    more = ("--gpu_memory", "20", "--gpus", "4", "--quantization", "none", "--ema_decay", "0.9")
    record = record_of(folder, capsys, *more, "--output_dir", "a run")
    assert record["recommended"]["weights"] == "spread" and "moving average" not in record["recommended"]["memory"]
    (first, rows), (second, run) = map(parsed, record["commands"])
    assert first == ["python"] and rows.command == "extract" and rows.values["device_map"] == "auto"
    assert second == ["accelerate", "launch", "--config_file", "ds_configs/fsdp2.yaml", "--num_processes", "4"]
    assert run.command == "train" and run.values["tail_baseline"] is False and run.values["ema_decay"] == 0
    assert run.values["output_dir"] == "a run"
    assert run.extraction.output_dir == rows.extraction.output_dir == "outputs/llama3-8b-activations"


def test_several_machines_are_a_job(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Weights that one GPU cannot hold are spread within each machine, and the words are those of its script."""
    more = ("--gpu_memory", "20", "--gpus", "16", "--quantization", "none")
    record = record_of(folder, capsys, *more)
    best = record["recommended"]
    assert (best["weights"], best["copies_of_weights"]) == ("spread", 2)
    over_all = next(way for way in record["ways"] if way["weights"] == "spread" and way["copies_of_weights"] == 1)
    assert over_all["memory_gb"] < best["memory_gb"] and over_all["hours"] > 2 * best["hours"]
    _, job = record["commands"]
    assert job.startswith("LAUNCH_CONFIG=ds_configs/hsdp.yaml sbatch --nodes 2 --gpus-per-node 8 ds_configs/slurm.sh ")
    run = cli.parse(shlex.split(job.partition("slurm.sh ")[2]))
    assert run.command == "train" and run.values["output_dir"] == f"outputs/{folder.name}"
    more = ("--gpus", "16", "--output_dir", "a run", "--resume_from_checkpoint", "auto")
    [job] = record_of(folder, capsys, *more)["commands"]
    assert "LAUNCH_CONFIG=ds_configs/ddp.yaml" in job and "resume" not in job  # which the script does by itself
    assert cli.parse(shlex.split(job.partition("slurm.sh ")[2])).values["output_dir"] == "a run"


def test_what_is_spread_has_no_baseline_to_pay_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ("--gpu_memory", "20", "--gpus", "8", "--quantization", "none", "--gpu_price", "2")
    record = record_of(folder, capsys, *more)["recommended"]
    assert record["baseline_hours"] == 0 and record["price"] == pytest.approx(16 * record["hours"])
    assert cli.main(words_for(folder, *more)) == 0
    said = capsys.readouterr().out
    assert "per GPU and hour\n" in said and "tail_baseline=False" in said


@pytest.mark.parametrize(("gpus", "taken"), [("8", 64), ("24", 72), ("64", 128)])
def test_a_step_that_cannot_be_shared_out_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str], gpus: str, taken: int
) -> None:
    assert record_of(folder, capsys, "--gpus", gpus)["recommended"]["activations_per_step"] == taken
    assert cli.main(words_for(folder, "--gpus", gpus)) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert (f"A step has {taken} activations, not 64: each of {gpus} GPUs" in said) == (taken != 64)


def test_a_run_says_nothing_of_plans() -> None:
    values = cli.parse(["train"]).values
    assert "gpu_memory" not in as_recipe(values)
    assert "gpu_memory: 24.0" in as_recipe(values | {"gpu_memory": 24.0})
