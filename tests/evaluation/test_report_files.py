"""What is written: whole files or none, every number with its definition and interval, pictures that are pictures."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from fake_reports import report_of
from rich.console import Console

from consistency_lens.errors import BadInput
from consistency_lens.evaluation import Report
from consistency_lens.evaluation.bootstrap import Number
from consistency_lens.evaluation.presenting.plots import rate_fidelity
from consistency_lens.files import write_whole

PNG = b"\x89PNG\r\n\x1a\n"
HISTORY = [{"step": s, "eval_kl_recovered": s / 10, "eval_text_nll": 2.0 + s, "loss": 1.0} for s in range(4)]


@pytest.fixture
def report() -> Report:
    return report_of(
        {"lens": 0.97, "context_tail": 0.66, "truncation_1": 0.2, "own_continuation": 0.9, "reworded": 0.8},
        on_facts={"lens": 0.99, "context_tail": 0.5},
        training=HISTORY,
    )


def test_saving_and_loading_is_the_identity(report: Report, tmp_path: Path) -> None:
    written = report.save(tmp_path / "new" / "folder")
    assert {path.name for path in written} == {path.name for path in (tmp_path / "new" / "folder").iterdir()}
    assert Report.load(tmp_path / "new" / "folder") == report
    stored = json.loads((tmp_path / "new" / "folder" / "report.json").read_text())
    assert next(iter(stored)) == "verdict" and stored["verdict"] == report.verdict


def test_a_report_that_does_not_say_how_it_is_shown_is_read_all_the_same(report: Report, tmp_path: Path) -> None:
    """Those of the first versions: their words stay, and their groups stand under plain names."""
    stored = report.to_dict()
    del stored["about"], stored["gains"]
    old = Report.from_dict(json.loads(json.dumps(stored)))
    assert (old.verdict, old.remarks, old.parts) == (report.verdict, report.remarks, report.parts)
    assert old.about.groups[0].name == "lens" and not old.about.alarm
    old.save(tmp_path)
    assert "*text*" in (tmp_path / "report.md").read_text() and Report.load(tmp_path) == old


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("data", "seconds"), None, "data.seconds=None, expected a finite number"),
        (("data", "split"), 3, "data.split=3"),
        (("data", "more"), float("-inf"), "data.more=-inf, expected a finite number"),
        (("lens", "more"), [{"x": float("nan")}], "lens.more[0].x=nan, expected a finite number"),
        (("training", 0), {"step": 1, "loss": float("inf")}, "training[0].loss=inf, expected a finite number"),
    ],
)
def test_what_no_report_says_is_refused_by_its_field(
    report: Report, tmp_path: Path, place: tuple[str, Any], value: object, said: str
) -> None:
    report.save(tmp_path)
    stored = json.loads((tmp_path / "report.json").read_text())
    stored[place[0]][place[1]] = value
    (tmp_path / "report.json").write_text(json.dumps(stored))
    with pytest.raises(BadInput, match=re.escape(said)):
        Report.load(tmp_path)
    if place[0] == "data" and place[1] != "more":
        del stored["data"][place[1]]
        (tmp_path / "report.json").write_text(json.dumps(stored))
        with pytest.raises(BadInput, match=f"a record with the field {place[1]}"):
            Report.load(tmp_path)


def test_pictures(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path)
    pictures = {path.stem: path.read_bytes() for path in tmp_path.glob("*.png")}
    assert set(pictures) == {"controls", "truncation", "position", "training"}
    assert all(content.startswith(PNG) and len(content) > 5000 for content in pictures.values())
    path = rate_fidelity({2: report, 8: report}, tmp_path / "rate.png", part="fact_positions")
    assert path.read_bytes().startswith(PNG)
    with pytest.raises(BadInput, match="at least two sizes"):
        rate_fidelity({2: report}, tmp_path / "one.png")


def test_a_history_with_a_nan_is_saved_without_it(tmp_path: Path) -> None:
    history = [{"step": 1, "eval_kl_recovered": float("nan"), "loss": 2.0, "note": "x"}]
    report = report_of({"lens": 0.5, "empty_text": 0.1}, training=history)
    assert report.training == [{"step": 1, "loss": 2.0, "note": "x"}]
    report.save(tmp_path)
    assert Report.load(tmp_path) == report


def test_only_what_was_measured_is_drawn(tmp_path: Path) -> None:
    report_of({"lens": 0.5, "empty_text": -30.0}).save(tmp_path)
    assert {path.stem for path in tmp_path.glob("*.png")} == {"controls", "position"}


def test_markdown_gives_every_number_with_its_interval_and_definition(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert text.startswith(f"**{report.verdict}**")
    for part in report.parts.values():
        for code, numbers in part.numbers.items():
            assert f"`{code}`" in text
            for name, number in numbers.items():
                assert f"`{name}`" in text
                # A subset has the numbers that answer a question.
                if part is report.parts["all"] or name in ("kl_recovered", "top1"):
                    assert str(number) in text
    assert all(f"| `{name}` |" in text for name in report.definitions)
    widths = [line.count("|") for line in text.splitlines() if line.startswith("|") and "{" not in line]
    assert min(widths) >= 3
    for picture in tmp_path.glob("*.png"):
        assert f"]({picture.name})" in text


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (("by_position", 0, "numbers"), "by_position has no numbers of lens"),
        (("definitions",), "there is no definition of lens"),
        (("parts", "all", "numbers"), "parts.all has no numbers of lens"),
    ],
)
def test_a_report_that_says_nothing_of_its_lens_is_refused(
    report: Report, tmp_path: Path, place: tuple[Any, ...], said: str
) -> None:
    report.save(tmp_path)
    stored = json.loads((tmp_path / "report.json").read_text())
    inner = stored
    for name in place:
        inner = inner[name]
    del inner["lens"]
    (tmp_path / "report.json").write_text(json.dumps(stored))
    with pytest.raises(BadInput, match=said):
        Report.load(tmp_path)


def test_a_file_that_cannot_be_written_whole_leaves_the_old_one(tmp_path: Path) -> None:
    path = write_whole(tmp_path / "report.json", b"old")
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError):
        write_whole(tmp_path / "taken", b"a file cannot replace a folder")
    assert path.read_bytes() == b"old" and {p.name for p in tmp_path.iterdir()} == {"report.json", "taken"}


def test_a_number_that_was_not_measured_is_named(report: Report, tmp_path: Path) -> None:
    assert isinstance(report.number("top1"), Number)
    with pytest.raises(BadInput, match="kl_recovered"):
        report.number("perplexity")
    with pytest.raises(BadInput, match="fact_positions"):
        report.number("top1", part="elsewhere")
    with pytest.raises(BadInput, match=r"no report\.json"):
        Report.load(tmp_path)


@pytest.mark.parametrize("width", [80, 140])
def test_the_terminal_shows_the_verdict_and_every_control(report: Report, width: int) -> None:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    report.show(console, whole=True)
    shown = console.export_text()
    assert all(len(line.rstrip()) <= width for line in shown.splitlines())
    assert "The words carry what the model was thinking" in " ".join(shown.replace("│", " ").split())
    for code in report.parts["all"].numbers:
        line = next(line for line in shown.splitlines() if line.startswith(f"{code} "))
        assert len(re.findall(r"-?\d+\.\d{3} ±\d*\.\d\d(?= |$)", line)) == 4, line  # nothing is cut off
    assert "…" not in shown


@pytest.mark.parametrize("width", [80, 120])
def test_the_headline_fits_a_screen_and_leads_with_the_facts(report: Report, width: int) -> None:
    console = Console(width=width, record=True, file=io.StringIO(), force_terminal=True)
    report.show(console)
    coloured = console.export_text(clear=False, styles=True)
    assert "\x1b[31m" not in coloured, "red is for errors"
    lines = console.export_text().splitlines()
    assert len(lines) <= 30 and max(map(len, lines)) <= width
    (heading,) = [i for i, line in enumerate(lines) if line.split() == ["fact", "positions", "all"]]
    assert lines[heading + 1].split() == ["lens", *cells(report, "lens")]
    best = next(line.split() for line in lines if line.startswith("context_tail"))
    assert best == ["context_tail", *cells(report, "context_tail")]
    assert not any(line.startswith("truncation_1") for line in lines)


def cells(report: Report, code: str) -> list[str]:
    found = []
    for part in ("fact_positions", "all"):
        number = report.number("kl_recovered", code, part)
        reach = max(number.high - number.value, number.value - number.low)
        found += [f"{number.value:.3f}", f"±{reach:.2f}".replace("±0.", "±.")]
    return found
