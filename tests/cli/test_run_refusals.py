"""What a command refuses before anything slow, and what it says when memory runs out."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from extracting import extract_to, model_without_weights, random_texts, saved_model
from tiny import shared_lm
from whole_runs import SMALL, rows_of, whole_run, words_for

from consistency_lens import FrozenLM, cli
from consistency_lens.base.robust.memory import MemoryShortInEvaluation
from consistency_lens.cli import memory


@pytest.fixture(scope="module")
def made() -> Path:
    return whole_run()


@pytest.fixture(scope="module")
def place(made: Path) -> Path:
    """Where it was started, and its texts lie."""
    return made.parents[1]


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
    assert "site='embed': embeddings are single tokens" in error_of(
        [*words, "--sites", "embed", "resid_post.1"], capsys
    )
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

    monkeypatch.setattr(
        "consistency_lens.cli.commands.command.explain", full
    )  # without a GPU nothing else can run out of it
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
    assert "lower --report_batch_size" in judged and judged.endswith(f"evaluate --lens {made} measures it.")
    request.stage = "train"
    watched = memory.advice(request, MemoryShortInEvaluation("CUDA out of memory."))
    assert "1. lower --per_device_eval_batch_size" in watched and "train_batch_size" not in watched
    assert "in an evaluation" not in watched and watched.endswith("goes on from there.")
    assert memory.advice(request, short) == said
    assert said.endswith(f"--resume_from_checkpoint {made / 'checkpoint-4'} goes on from there.")
    known = {f"--{name}" for name in request.options.names}
    assert all(word.strip(",") in known for word in said.split() if word[:2] == "--")
