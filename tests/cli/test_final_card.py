"""A whole run ends with a card beside its lens: pictures that show, a snippet that runs, words by hand that stay."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from extracting import random_texts, saved_model, write_jsonl
from hub_client import command

from consistency_lens import Report
from consistency_lens.base.saving.lens_card import TrainingRecord
from consistency_lens.card import rendering

WORDS = [
    *["--use_cpu", "--code_length", "3", "--prompt", "w1 <A> w2", "--warm_steps", "2", "--min_position", "4"],
    *["--per_device_train_batch_size", "6", "--per_device_eval_batch_size", "16", "--eval_strategy", "steps"],
    *["--eval_steps", "2", "--save_steps", "2", "--eval_rows", "32", "--sample_rows", "8", "--kl_horizon", "2"],
    *["--rollouts", "2", "--report_rows", "24", "--no_tail_baseline", "--sites", "resid_post.1"],
    *["--validation_fraction", "0.2", "--test_fraction", "0.2"],
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with texts, a frozen model, and a run that was made of both."""
    folder = tmp_path_factory.mktemp("cards")
    write_jsonl(folder / "texts.jsonl", random_texts(80, shortest=8, longest=24))
    (folder / "tiny-llama").symlink_to(saved_model())
    code, said = start(folder, "--train_file", "texts.jsonl", *WORDS, "--max_steps", "4", "--output_dir", "my-run")
    assert code == 0, said
    return folder


def start(place: Path, *words: str) -> tuple[int, str]:
    code, said = command([*words, "--model_name_or_path", "tiny-llama"], str(place))
    (place / "log").write_text(said, "utf-8")
    return code, said


def card_of(place: Path) -> Path:
    return place / "my-run" / "lens" / "README.md"


def test_it_holds_what_was_measured_and_shows_pictures(place: Path) -> None:
    path = card_of(place)
    text = path.read_text("utf-8")
    report = Report.load(path.parent / "report")
    assert report == Report.load(place / "my-run" / "report")
    for name, number in report.parts["all"].numbers["lens"].items():
        assert f"| {rendering.cell(name)} | {rendering._number(number.value, number.low, number.high)}" in text, name
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    assert "report/controls.png" in pictures and all((path.parent / picture).is_file() for picture in pictures)
    for words in [
        "# my-run",
        "## Training",
        "| CPU hours |",
        "run_lens.py --train_file texts.jsonl",
        "## Data",
        "unknown",
    ]:
        assert words in text, words
    assert text.count("| good |") >= 1 and text.count("| bad |") >= 1 and str(place) not in text
    assert f"card in {path.relative_to(place)}" in (place / "log").read_text().replace("\n", "")


def test_its_snippet_prints_what_it_says(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    text, said = card_of(place).read_text("utf-8"), io.StringIO()
    code, _, rest = text.partition("```python\n")[2].partition("```")
    with redirect_stdout(said):
        exec(code, {})
    assert said.getvalue().strip() and said.getvalue().strip() == rest.split("```")[1].strip()


@pytest.mark.slow
def test_what_a_person_adds_outlives_a_new_report_and_more_training(place: Path) -> None:
    path = card_of(place)
    by_hand = path.read_text("utf-8").replace("## Limits", "edited inside")
    path.write_text(by_hand.replace("library_name", "language: en\nlibrary_name") + "\nBy hand.\n", "utf-8")
    (place / "my-run" / "README.md").open("a", encoding="utf-8").write("\nOf the run, by hand.\n")
    rows = next((place / "outputs").glob("*-activations"))
    named = ["--activations", str(rows.relative_to(place)), "--report_rows", "32", "--use_cpu"]
    code, said = start(place, "evaluate", "--lens", "my-run", *named)
    assert code == 0, said
    after = path.read_text("utf-8")
    assert "\nBy hand.\n" in after and "language: en" in after and "edited inside" not in after
    assert "Measured on 32 rows" in after and "Measured on 24 rows" in by_hand
    assert after.count("## Training") == 1, "what it cost is told again by a report that did not train"

    more = ["--max_steps", "6", "--resume_from_checkpoint", "true", "--output_dir", "my-run"]
    code, said = start(place, "--train_file", "texts.jsonl", *WORDS, *more)
    assert code == 0, said
    after, record = path.read_text("utf-8"), TrainingRecord.load(path.parent)
    assert "\nBy hand.\n" in after and "Measured on 24 rows" in after and "| steps | 6 |" in after
    assert record is not None and (record.step, record.cost.sessions, record.cost.rows) == (6, 2, 36)
    for folder in (place / "my-run", place / "my-run" / "checkpoint-6"):
        assert "Of the run, by hand." in (folder / "README.md").read_text("utf-8")
