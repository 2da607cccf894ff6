"""Whole commands in processes of their own, on a tiny model: rows, lens, report, explanation."""

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

import pytest
import torch
from extracting import ROOT, run, saved_model, start
from whole_runs import SMALL, losses, rows_of, whole_run, words_for

from consistency_lens import Activations, AutoLens, FrozenLM, Report, cli
from consistency_lens.base.saving.checkpoint import checkpoints


@pytest.fixture(scope="module")
def made() -> Path:
    return whole_run()


@pytest.fixture(scope="module")
def place(made: Path) -> Path:
    """Where it was started, and its texts lie."""
    return made.parents[1]


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


def test_a_finished_run_that_is_resumed_ends_as_it_did(made: Path, place: Path) -> None:
    folder = place / "finished"
    shutil.copytree(made, folder)
    recipe = (folder / "recipe.yaml").read_text().replace(made.name, folder.name)
    (folder / "recipe.yaml").write_text(recipe.replace("output_dir: outputs/", "output_dir: "))
    words = ["train", "--config", str(folder / "recipe.yaml"), "--activations", str(rows_of(made))]
    code, said = run([*words, "--resume_from_checkpoint", "true"], place / "log-finished", os.chdir, place)
    assert code == 0, said
    assert losses(folder) == losses(made)
    for name in ("lens", "lens-ema"):
        weights = [path.relative_to(made) for path in (made / name).rglob("*.safetensors")]
        assert weights and all((folder / path).read_bytes() == (made / path).read_bytes() for path in weights)
    assert {path.name for path in checkpoints(folder)} == {path.name for path in checkpoints(made)}


def test_an_interrupted_training_says_where_it_goes_on(made: Path, place: Path) -> None:
    words = words_for(rows_of(made), place / "stopped", "--max_steps", "100000", "--eval_strategy", "no")
    running = start(words, place / "log4", signal.signal, signal.SIGINT, signal.default_int_handler)
    deadline = time.monotonic() + 300
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
    nothing = ["--warm_start", "none", "--warm_steps", "0", "--save_total_limit", "1"]
    code, said = run(words_for(rows_of(made), place / "early", *more, *nothing), place / "log-early")
    assert code == 0, said
    assert [step for step, _ in losses(place / "early")] == [1, 2, 3, 4] and "context tail 4/4" in said
    history = json.loads((place / "early/history.json").read_text())
    assert len({row["eval_kl_recovered"] for row in history if "eval_kl_recovered" in row}) == 1
    assert checkpoints(place / "early")[0].name == "checkpoint-2", "the first was the best"


@pytest.mark.parametrize("kind", ["lora", "projections"])
def test_a_lens_on_the_weights_of_its_subject(made: Path, place: Path, kind: str) -> None:
    """Adapters of the lens and of its baseline need weights of their own; maps alone do not."""
    folder = place / kind
    named = ["--model_name_or_path", str(saved_model()), "--activations", str(rows_of(made))]
    more = ["--trainable", kind, "--lora_rank", "2", "--warm_steps", "4"]
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


def test_evaluate_finds_rows_and_subject_through_the_run(
    made: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The console shows a screen, or with --json nothing but the report."""
    monkeypatch.chdir(place)
    words = ["evaluate", "--use_cpu", "--lens", str(made), "--output_dir", str(place / "judged")]
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    first, second = Report.load(made / "report"), Report.load(place / "judged/report")
    assert second.parts == first.parts and "4 explanations" in said and "verdict" in said
    assert report_line((place / "judged/log.txt").read_text()) == report_line(said)
    assert len(said.splitlines()) <= 80
    assert cli.main([*words, "--json"]) == 0
    alone = Report.from_dict(json.loads(capsys.readouterr().out))
    assert (alone.verdict, alone.parts) == (second.verdict, second.parts)


def test_explain_as_a_table_and_as_json(made: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["explain", "--use_cpu", "--lens", str(made), "w1 w2 w3 w4"]
    lens = AutoLens.from_pretrained(made, subject=saved_model())
    assert cli.main([*words, "--json", "--positions=2,-1"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    expected = json.loads(json.dumps(lens.explain("w1 w2 w3 w4", [2, -1])))
    assert rows == [{"doc_id": 0, **row} for row in expected] and [row["position"] for row in rows] == [2, 4]
    assert cli.main(words) == 0
    table = capsys.readouterr().out
    assert all(f"w{i}" in table for i in range(1, 5)) and "with the edits" in table
