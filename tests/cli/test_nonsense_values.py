"""What the command line refuses before anything slow, and before it touches what is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from extracting import extract_to, model_without_weights, random_texts, saved_model
from tiny import tiny_lm

from consistency_lens import cli
from consistency_lens.activations import Activations
from consistency_lens.cli.parsing.request import parse
from consistency_lens.cli.run_folder import LENS
from consistency_lens.errors import BadInput

PROMPT = ["--prompt", "w1 <A> w2"]


def error_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows") / "rows"
    extract_to(folder, random_texts(60, shortest=8))
    return folder


def words_for(rows: Path, run: Path, *more: str) -> list[str]:
    named = ["--model_name_or_path", str(model_without_weights()), "--activations", str(rows)]
    return ["train", *named, "--output_dir", str(run), "--use_cpu", *PROMPT, *more]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--code_length", "0"], "code_length=0. Give the explanation at least one token."),
        (["--code_length", "-2"], "code_length=-2."),
        (["--early_stopping_patience", "0"], "early_stopping_patience=0."),
        (["--sample_rows", "0"], "sample_rows=0."),
        (["--warm_steps", "-5"], "warm_steps=-5."),
    ],
    ids=" ".join,
)
def test_nonsense_is_refused_before_the_weights(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    assert said in error_of(words_for(rows, tmp_path / "run", *more), capsys)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["--report_rows", "--report_batch_size"])
def test_a_report_of_too_few_rows_is_refused(rows: Path, capsys: pytest.CaptureFixture[str], option: str) -> None:
    said = error_of(["evaluate", "--lens", "x", "--activations", str(rows), "--use_cpu", option, "0"], capsys)
    assert f"{option[2:]}=0. Use 2 or more" in said


def test_a_run_is_not_overwritten_by_saying_that_it_is_not_resumed(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run" / LENS).mkdir(parents=True)
    words = words_for(rows, tmp_path / "run", "--resume_from_checkpoint", "false")
    assert "a run lies there already" in error_of(words, capsys)


def test_a_lens_whose_encoder_is_of_no_kind() -> None:
    with pytest.raises(SystemExit):
        parse(["train", "--encoder_trainable", "some"])
    assert parse(["train", "--encoder_trainable", "lora"]).values["encoder_trainable"] == "lora"


def test_contexts_that_leave_no_room_for_prompt_and_text(tmp_path: Path) -> None:
    """Judging puts both behind each context; that it does not fit should not show after hours of training."""
    small = tiny_lm(max_position_embeddings=32)
    extract_to(tmp_path / "rows", random_texts(40, shortest=40, longest=60), small)
    activations = Activations.load(tmp_path / "rows")
    site = json.loads((tmp_path / "rows/extraction.json").read_text())["provenance"]["sites"][0]
    request = parse(["train", "--model_name_or_path", str(saved_model()), "--code_length", "3", *PROMPT])
    with pytest.raises(BadInput, match=r"Extract with --max_length \d+ or less") as caught:
        request.family.new_lens(small, activations, [site])
    room = int(str(caught.value).split("--max_length ")[1].split()[0])
    extract_to(tmp_path / "fitting", random_texts(40, shortest=40, longest=60), small, max_length=room)
    assert request.family.new_lens(small, Activations.load(tmp_path / "fitting"), [site]).config.code_length == 3
