"""A whole run that is killed in each of its stages, and resumed each time, ends as an undisturbed one: lens, baseline,
history, report and cards, digit for digit."""

from __future__ import annotations

import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from extracting import random_texts, run, saved_model, signal_at, write_jsonl
from whole_runs import ROWS, SMALL

pytestmark = pytest.mark.slow
CLOCKS = re.compile(r"runtime|per_second|seconds|minutes|hours|duration|_time|flops_util|memory")
# A run that was resumed cost more, and a report took its own time.
CLOCKS_OF_A_CARD = re.compile(r"(?m)^\| (CPU hours|speed|peak memory) \|.*$|, in [\d.,]+ s\b")
# Which file of a whole run is written when a process dies, and the how manieth change of it: stage after stage.
STAGES = [
    ("extraction begins", "rows/.progress/plan.json", 1),
    ("extraction", "rows/.progress/00001", 1),
    ("statistics", "rows/statistics.safetensors", 1),
    ("card of the rows", "rows/.README.md", 1),
    ("first checkpoint", "run/checkpoint-2/trainer_state.json", 1),
    ("last checkpoint", "run/checkpoint-4/", 3),
    ("lens", "run/lens/", 4),
    ("history", "run/history.json", 1),
    ("checkpoint of the baseline", "run/tail_lens/checkpoint-2/trainer_state.json", 1),
    ("baseline", "run/tail_lens/model.safetensors", 1),
    ("baseline is noted", "run/tail_lens/baseline.json", 1),
    ("report", "run/report/", 4),
    ("card of the lens", "run/lens/.README.md", 4),
]


def words(place: Path, *more: str) -> list[str]:
    named = ["--model_name_or_path", str(saved_model()), "--train_file", str(place.parent / "texts.jsonl")]
    folders = ["--output_dir", str(place / "run"), "--activations_dir", str(place / "rows"), "--ema_decay", "0.9"]
    return [*named, *folders, *ROWS, *SMALL, "--documents_per_shard", "32", "--resume_from_checkpoint", "auto", *more]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("whole")
    write_jsonl(home / "texts.jsonl", random_texts(80, shortest=8, longest=24))
    (home / "once").mkdir()
    code, said = run(words(home / "once"), home / "log")
    assert code == 0, said
    return home / "once"


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


def test_killed_in_every_stage(undisturbed: Path) -> None:
    place = undisturbed.with_name("killed")
    place.mkdir()
    for number, (stage, file, change) in enumerate(STAGES):
        log = place / f"log-{number}"
        code, said = run(words(place), log, signal_at, change, str(place / file))
        assert code == -signal.SIGKILL, f"{stage}: {code} {said[-3000:]}"
    code, said = run(words(place), place / "log")
    assert code == 0, said
    require_same(place, undisturbed)


def test_a_complete_run_that_is_resumed_stays_as_it_is(undisturbed: Path) -> None:
    place = undisturbed.with_name("again")
    shutil.copytree(undisturbed, place)
    code, said = run(words(place, "--resume_from_checkpoint", "true"), place / "log")
    assert code == 0, said
    assert "training 1/" not in said and "warm start 1/" not in said and "context tail 1/" not in said
    require_same(place, undisturbed)
