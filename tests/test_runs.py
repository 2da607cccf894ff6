"""Whole commands in processes of their own, on a tiny model: rows, lens, report, explanation; and what is refused
before anything slow."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from extracting import ROOT, extract_to, model_without_weights, random_texts, run, saved_model, start, write_jsonl
from tiny import shared_lm

from consistency_lens import Activations, AutoLens, FrozenLM, Report, cli
from consistency_lens.base.checkpoint import checkpoints
from consistency_lens.base.memory import MemoryShortInEvaluation
from consistency_lens.cli import memory

PROMPT = "w1 <A> w2"
ROWS = ["--min_position", "4", "--validation_fraction", "0.2", "--test_fraction", "0.2", "--sites", "resid_post.1"]
SMALL = [
    *["--use_cpu", "--code_length", "3", "--prompt", PROMPT, "--warm_steps", "2", "--max_steps", "4"],
    *["--per_device_train_batch_size", "6", "--per_device_eval_batch_size", "16", "--eval_strategy", "steps"],
    *["--eval_steps", "2", "--save_steps", "2", "--eval_rows", "32", "--sample_rows", "8", "--logging_steps", "1"],
    *["--kl_horizon", "2", "--rollouts", "2", "--report_rows", "24"],
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    write_jsonl(folder / "texts.jsonl", random_texts(80, shortest=8, longest=24))
    return folder


@pytest.fixture(scope="module")
def made(place: Path) -> Path:
    """The folder of a whole run, under the name that it gave itself."""
    words = ["--model_name_or_path", str(saved_model()), "--train_file", str(place / "texts.jsonl"), *ROWS, *SMALL]
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


def test_a_whole_run_leaves_everything_in_a_folder_with_a_name(made: Path, place: Path) -> None:
    assert re.fullmatch(r"tiny-llama_resid_post\.1_texts_lr0\.0003_t3_\d{8}-\d{6}", made.name)
    assert [folder.name for folder in checkpoints(made)] == ["checkpoint-2", "checkpoint-4"]
    kept = {entry.name for entry in made.iterdir()}
    assert {"lens", "lens-ema", "tail_lens", "warm_lens", "report", "samples.parquet", "recipe.yaml"} <= kept
    assert [step for step, _ in losses(made)] == [1, 2, 3, 4]
    report = Report.load(made / "report")
    assert {"context_tail", "context_tail_trained"} <= set(report.groups["text"]) and report.data["rows"] == 24
    assert report.gains["kl_recovered"]["after"] == report.number("kl_recovered")
    record = json.loads((made / "run.json").read_text())
    assert record["name"] == made.name and {"torch", "python"} <= set(record["starts"][0]["versions"])
    assert str(saved_model().parent) not in (made / "run.json").read_text()


def test_the_log_holds_what_was_printed_and_no_rewritten_lines(made: Path, place: Path) -> None:
    log, printed = (made / "log.txt").read_text(), (place / "log").read_text()
    assert report_line(log) == report_line(printed) and "kl_recovered" in log and "training 2/2" in log
    assert "\r" not in log and "\x1b" not in log and len(log) < 40_000


def report_line(text: str) -> str:
    return next(line for line in text.splitlines() if line.startswith("report in "))


def test_what_is_saved_is_the_lens_and_its_average(made: Path) -> None:
    subject = FrozenLM.from_pretrained(saved_model())
    lens, average, tail = (AutoLens.from_pretrained(made / n, subject) for n in ("lens", "lens-ema", "tail_lens"))
    at = "encoder.map.weight"
    values = [dict(x.named_parameters())[at] for x in (lens, average, tail)]
    assert not torch.equal(values[0], values[1]) and not torch.equal(values[0], values[2])
    decoder = dict(tail.decoder.lm.named_parameters())
    assert all(torch.equal(decoder[n], p) for n, p in subject.model.named_parameters()), "it had nothing to learn"
    assert lens.config.activation_norm == pytest.approx(average_norm(rows_of(made)), rel=0.05)


def test_the_warm_start_is_kept_as_it_was(made: Path) -> None:
    """The run's second step ends it, and its checkpoint was written there."""
    subject = FrozenLM.from_pretrained(saved_model())
    warm, checkpoint = (AutoLens.from_pretrained(made / name, subject) for name in ("warm_lens", "checkpoint-2"))
    others = dict(checkpoint.named_parameters())
    assert all(torch.equal(p, others[name]) for name, p in warm.named_parameters())


def average_norm(rows: Path) -> float:
    train = Activations.load(rows).splits["train"].with_format("torch")
    return float(torch.as_tensor(train["resid_post.1"][:]).norm(dim=-1).square().mean().sqrt())


def test_the_recipe_of_a_run_is_the_run_again(made: Path, place: Path) -> None:
    again = place / "again"
    code, said = run(
        [
            "--config",
            str(made / "recipe.yaml"),
            "--output_dir",
            str(again),
            "--no_tail_baseline",
            "--no_keep_warm_start",
        ],
        place / "log2",
        os.chdir,
        place,
    )
    assert code == 0, said
    assert losses(again) == losses(made)
    assert not (again / "tail_lens").exists() and not (again / "warm_lens").exists()
    assert Report.load(again / "report").gains == {}
    assert "is complete: every shard is there" in said, "the rows of the first run were found"


def test_it_goes_on_from_the_newest_whole_checkpoint(made: Path, place: Path) -> None:
    folder = place / "cut"
    shutil.copytree(made, folder)
    for name in ("lens", "checkpoint-4/trainer_state.json"):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    recipe = (
        (folder / "recipe.yaml").read_text().replace(made.name, "cut").replace("output_dir: outputs/", "output_dir: ")
    )
    (folder / "recipe.yaml").write_text(recipe)
    words = ["train", "--config", str(folder / "recipe.yaml"), "--activations", str(rows_of(made))]
    code, said = run([*words, "--resume_from_checkpoint", "true"], place / "log3", os.chdir, place)
    assert code == 0, said
    assert losses(folder) == losses(made) and (folder / "lens/config.json").is_file()
    assert [start["resumed_from"] for start in json.loads((folder / "run.json").read_text())["starts"]] == [
        None,
        "checkpoint-2",
    ]


def test_an_interrupted_training_says_where_it_goes_on(made: Path, place: Path) -> None:
    words = words_for(rows_of(made), place / "stopped", "--max_steps", "100000", "--eval_strategy", "no")
    running = start(words, place / "log4", signal.signal, signal.SIGINT, signal.default_int_handler)
    deadline = time.monotonic() + 120
    while not checkpoints(place / "stopped"):
        assert running.process.is_alive() and time.monotonic() < deadline, running.log.read_text()
        time.sleep(0.02)
    os.kill(running.process.pid, signal.SIGINT)
    code, said = running.end()
    assert code == 130 and "Traceback" not in said, said
    assert "interrupted: Nothing is lost up to checkpoint-" in said
    assert "KeyboardInterrupt" in (place / "stopped/log.txt").read_text()


def test_training_stops_early_where_nothing_gets_better_and_keeps_the_best(made: Path, place: Path) -> None:
    more = ["--early_stopping_patience", "1", "--load_best_model_at_end", "--max_steps", "40", "--learning_rate", "0"]
    nothing = ["--warm_start", "none", "--anchor", "none", "--warm_steps", "0", "--save_total_limit", "1"]
    code, said = run(words_for(rows_of(made), place / "early", *more, *nothing), place / "log-early")
    assert code == 0, said
    assert [step for step, _ in losses(place / "early")] == [1, 2, 3, 4] and "context tail 4/4" in said
    history = json.loads((place / "early/history.json").read_text())
    assert len({row["eval_kl_recovered"] for row in history if "eval_kl_recovered" in row}) == 1
    assert checkpoints(place / "early")[0].name == "checkpoint-2", "the first was the best"


@pytest.mark.slow
def test_the_demo_from_end_to_end(tmp_path: Path, subject_folder: Path) -> None:
    """All of it but the length of the training."""
    short = ["--warm_steps", "8", "--max_steps", "12", "--eval_steps", "6", "--save_steps", "6", "--report_rows", "64"]
    done = subprocess.run(
        [sys.executable, ROOT / "run_lens.py", "--use_cpu", *short, "--eval_rows", "64"],
        cwd=tmp_path,
        env=os.environ | {"COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for title in ("Needed facts said, new stories", "first row: document", "verdict", "4 explanations"):
        assert title in done.stdout
    (folder,) = (tmp_path / "outputs").glob("demo_resid_post.1_demo_lr*")
    report = Report.load(folder / "report")
    assert {"fact_recall", "fact_words"} <= set(report.judged["lens"])  # precision, once a text says a fact word
    assert "reworded" in report.groups["tampered"] and "context_tail_trained" in report.groups["text"]
    assert len(Activations.load(tmp_path / "outputs/demo-activations").splits["train"]) > 10_000


@pytest.mark.parametrize("kind", ["lora", "projections"])
def test_a_lens_on_the_weights_of_its_subject(made: Path, place: Path, kind: str) -> None:
    """Adapters of the lens and of its baseline need weights of their own; maps alone do not."""
    folder = place / kind
    named = ["--model_name_or_path", str(saved_model()), "--activations", str(rows_of(made))]
    more = ["--trainable", kind, "--lora_rank", "2", "--warm_steps", "4", "--anchor", "none"]
    words = [*named, "--output_dir", str(folder), *SMALL, *more]
    code, said = run(words, place / f"log-{kind}", os.chdir, place)
    assert code == 0, said
    first = Report.load(folder / "report")
    code, said = run(["evaluate", "--lens", str(folder), "--output_dir", str(place / f"{kind}-again")], place / "log6")
    assert code == 0, said
    again = Report.load(place / f"{kind}-again/report")
    for name in ("lens", "context_tail_trained"):
        assert again.number("kl", name).value == pytest.approx(first.number("kl", name).value, rel=1e-4)


@pytest.mark.distributed
def test_two_processes_make_one_run(made: Path, place: Path) -> None:
    words = [*words_for(rows_of(made), place / "pair")[1:], "--gradient_accumulation_steps", "2"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(ROOT / "run_lens.py")]
    done = subprocess.run(
        [sys.executable, *launcher, *words], capture_output=True, text=True, timeout=300, cwd=place, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("training 2/2") == 1 and done.stdout.count("report in ") == 1
    assert json.loads((place / "pair/run.json").read_text())["starts"][0]["processes"] == 2
    assert (place / "pair/lens/config.json").is_file() and (place / "pair/tail_lens/config.json").is_file()


# -- the other two commands


def test_evaluate_finds_rows_and_subject_through_the_run(made: Path, place: Path) -> None:
    words = ["evaluate", "--use_cpu", "--lens", str(made), "--output_dir", str(place / "judged")]
    code, said = run(words, place / "log5", os.chdir, place)
    assert code == 0, said
    first, second = Report.load(made / "report"), Report.load(place / "judged/report")
    assert second.parts == first.parts and "4 explanations" in said and "verdict" in said
    assert report_line((place / "judged/log.txt").read_text()) == report_line(said)


def test_explain_as_a_table_and_as_json(made: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["explain", "--use_cpu", "--lens", str(made), "w1 w2 w3 w4"]
    lens = AutoLens.from_pretrained(made, subject=saved_model())
    assert cli.main([*words, "--json", "--positions=2,-1"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    expected = json.loads(json.dumps(lens.explain("w1 w2 w3 w4", [2, -1])))
    assert rows == expected and [row["position"] for row in rows] == [2, 4]
    assert cli.main(words) == 0
    table = capsys.readouterr().out
    assert all(f"w{i}" in table for i in range(1, 5)) and "with the swap" in table


# -- what is refused


def error_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            ["--code_length", "126"],
            "code_length=126: the model takes 128 tokens, and the prompt has 4. Use at most 124.",
        ),
        (["--site", "resid_post.3"], "site='resid_post.3'. Use one of resid_post.1"),
        (["--prompt", "no place"], "prompt='no place'. Write <A> once"),
        (["--kl_horizon", "9"], "kl_horizon=9. Use at most 8, or extract with a larger continuation_length."),
        (["--report_to", "wandb"], "report_to='wandb'. Install it with: pip install 'consistency-lens[track]'."),
        (["--report_to", "trackio"], "report_to='trackio'. Install it with: pip install 'consistency-lens[track]'."),
        (["--early_stopping_patience", "2"], "early_stopping_patience=2: it waits for a better evaluation."),
        (["--resume_from_checkpoint", "true"], "there is no whole checkpoint in "),
        (["--resume_from_checkpoint", "x/checkpoint-3"], "resume_from_checkpoint='checkpoint-3': there is no such"),
        (["--estimator", "policy", "--rollouts", "1"], "rollouts=1."),
        (["--kl_weight", "often"], "kl_weight='often'."),
        (["--activations", "no/where"], "activations='no/where': there is no such folder"),
        (["--load_best_model_at_end", "--save_steps", "3"], "training='these arguments': --load_best_model_at_end"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_training_that_cannot_work_is_refused_before_the_weights(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    if more[1] in ("wandb", "trackio"):
        spec = pytest.importorskip("importlib.util").find_spec(more[1])
        if spec is not None:
            pytest.skip("it is installed")
    words = words_for(rows_of(made), tmp_path / "run", *more, model=model_without_weights())
    assert said in error_of(words, capsys)


def test_a_finished_run_is_not_overwritten(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = error_of(words_for(rows_of(made), made), capsys)
    assert "a run lies there already. Use --resume_from_checkpoint true to go on with it" in said


def test_a_misspelt_key_in_the_recipe_of_a_run(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text((made / "recipe.yaml").read_text().replace("warm_steps", "warm_step"))
    said = error_of(["--config", str(recipe)], capsys)
    assert "config='warm_step': an unknown field. Did you mean 'warm_steps'?" in said


def test_a_checkpoint_that_was_cut_off(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(made / "checkpoint-2", tmp_path / "checkpoint-2")
    shutil.copytree(made / "checkpoint-4", tmp_path / "checkpoint-4")
    file = tmp_path / "checkpoint-4/encoder/model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    words = words_for(rows_of(made), tmp_path, "--resume_from_checkpoint", str(tmp_path / "checkpoint-4"))
    said = error_of(words, capsys)
    assert (
        "resume_from_checkpoint='checkpoint-4': it was cut off" in said and "Resume from checkpoint-2 instead" in said
    )


def test_rows_of_another_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = shared_lm("gpt2")
    extract_to(tmp_path / "rows", random_texts(60, shortest=8), other)
    said = error_of(words_for(tmp_path / "rows", tmp_path / "run"), capsys)
    assert "the model and the activations do not come from the same model" in said and "tiny-gpt2" in said


def test_rows_without_a_validation_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    extract_to(tmp_path / "rows", random_texts(40, shortest=8), validation_fraction=0.0, test_fraction=0.0)
    words = words_for(tmp_path / "rows", tmp_path / "run", model=model_without_weights())
    assert "training evaluates on the validation split, and it is empty" in error_of(words, capsys)
    more = ["--lens", "x", "--activations", str(tmp_path / "rows")]
    assert "report_split='test': it has no rows. Use --report_split train" in error_of(["evaluate", *more], capsys)


def test_a_whole_run_that_would_hold_nothing_out(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model_name_or_path", str(model_without_weights()), "--train_file", str(place / "texts.jsonl"), *SMALL]
    words += ["--output_dir", str(tmp_path / "run")]
    assert "test_fraction=0.0. Hold some documents out" in error_of([*words, "--test_fraction", "0"], capsys)
    assert "kl_horizon=2. Use at most continuation_length=1" in error_of(
        [*words, "--continuation_length", "1"], capsys
    )
    assert "site=None: the rows hold several sites" in error_of([*words, "--sites", "embed", "resid_post.1"], capsys)
    assert not (tmp_path / "run").exists()


def test_a_lens_of_another_model_or_of_another_site(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shared_lm("gpt2")
    other.model.save_pretrained(tmp_path / "other")
    other.tokenizer.save_pretrained(tmp_path / "other")
    words = ["explain", "--lens", str(made), "--model_name_or_path", str(tmp_path / "other"), "w1 w2"]
    assert "the model and the lens do not come from the same model" in error_of(words, capsys)
    extract_to(
        tmp_path / "rows", random_texts(60, shortest=8), FrozenLM.from_pretrained(saved_model()), sites=["embed"]
    )
    words = ["evaluate", "--use_cpu", "--lens", str(made), "--activations", str(tmp_path / "rows")]
    assert "site='resid_post.1'. Use one of embed" in error_of(words, capsys)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["evaluate"], "lens=None. Name a run folder"),
        (["explain", "w1 w2"], "lens=None. Name a run folder"),
        (["explain", "--lens", "{run}"], "text=None. Write what to explain"),
        (["explain", "--lens", "{run}", "w1 w2", "--positions", "9"], "positions=9. The text has 3 tokens"),
        (["explain", "--lens", "no/where", "w1 w2"], "lens='no/where'"),
    ],
)
def test_a_question_that_cannot_be_answered(
    made: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert said in error_of([word.format(run=made) for word in words], capsys)


def test_out_of_memory_says_what_helps_in_order_and_what_is_kept(
    made: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr("consistency_lens.cli.commands.explain", full)  # without a GPU nothing else can run out of it
    said = error_of(["explain", "--lens", str(made), "w1"], capsys)
    assert said.index("1. fewer --positions") < said.index("4. --quantization 8bit")
    request = cli.parse(["--config", "demo"])
    request.folder = made
    said = memory.advice(request, torch.OutOfMemoryError("CUDA out of memory."))
    assert said.index("--per_device_train_batch_size") < said.index("--trainable lora")
    short = torch.OutOfMemoryError("CUDA out of memory.")
    request.stage = "extract"
    assert "lower --batch_size" in memory.advice(request, short) and "same command" in memory.advice(request, short)
    request.stage = "evaluate"
    judged = memory.advice(request, short)
    assert "lower --report_batch_size" in judged and judged.endswith(f"evaluate --lens {made} judges it.")
    request.stage = "train"
    watched = memory.advice(request, MemoryShortInEvaluation("CUDA out of memory."))
    assert "1. lower --per_device_eval_batch_size" in watched and "train_batch_size" not in watched
    assert "in an evaluation" not in watched and watched.endswith("goes on from there.")
    assert memory.advice(request, short) == said
    assert said.endswith(f"--resume_from_checkpoint {made / 'checkpoint-4'} goes on from there.")
    assert all(word.strip(",") in cli.parsing.new_parser().format_help() for word in said.split() if word[:2] == "--")
