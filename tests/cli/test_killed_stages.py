"""A whole run that is killed in each of its stages, and resumed each time, ends as an undisturbed one: lens, baseline,
history, report and cards, digit for digit."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest
from extracting import random_texts, run, signal_at, write_jsonl
from whole_runs import require_same, words_to

pytestmark = pytest.mark.slow
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


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("whole")
    write_jsonl(home / "texts.jsonl", random_texts(80, shortest=8, longest=24))
    (home / "once").mkdir()
    code, said = run(words_to(home / "once"), home / "log")
    assert code == 0, said
    return home / "once"


def test_killed_in_every_stage(undisturbed: Path) -> None:
    place = undisturbed.with_name("killed")
    place.mkdir()
    for number, (stage, file, change) in enumerate(STAGES):
        log = place / f"log-{number}"
        code, said = run(words_to(place), log, signal_at, change, str(place / file))
        assert code == -signal.SIGKILL, f"{stage}: {code} {said[-3000:]}"
    code, said = run(words_to(place), place / "log")
    assert code == 0, said
    require_same(place, undisturbed)


def test_a_complete_run_that_is_resumed_stays_as_it_is(undisturbed: Path) -> None:
    place = undisturbed.with_name("again")
    shutil.copytree(undisturbed, place)
    code, said = run(words_to(place, "--resume_from_checkpoint", "true"), place / "log")
    assert code == 0, said
    assert "training 1/" not in said and "warm start 1/" not in said and "context tail 1/" not in said
    require_same(place, undisturbed)
