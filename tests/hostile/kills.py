"""Kills: a whole run that dies at any change of any file, once or several times, ends as an undisturbed one."""

from __future__ import annotations

import os
import shutil
import signal
from functools import cache
from pathlib import Path
from random import Random

from extracting import at_each_change, random_texts, run, signal_at, write_jsonl
from whole_runs import require_same, words_to

from .lenses import home

# Which files are counted: all, or those of one stage.
PLACES = ["", "rows/", "rows/.progress/", "run/", "run/checkpoint-", "run/lens/", "run/tail_lens/", "run/report/"]


@cache
def _undisturbed() -> tuple[Path, dict[str, int]]:
    """A run that nobody kills, and how often it changes the files of each place, as far as that could be known."""
    place = home() / "killed" / "once"
    place.mkdir(parents=True)
    write_jsonl(place.parent / "texts.jsonl", random_texts(80, shortest=8, longest=24))
    code, said = run(words_to(place), place / "log", write_down, str(place), str(place.parent / "changes"))
    assert code == 0, said
    changed = (place.parent / "changes").read_text().splitlines()
    return place, {name: sum(each.startswith(str(place / name)) for each in changed) for name in PLACES}


def whole_run(folder: Path, random: Random) -> str:
    """One to three deaths, each at the how manieth change of a file of some stage, by SIGKILL or by SIGTERM."""
    once, changes = _undisturbed()
    place = folder / "killed"
    place.mkdir()
    shutil.copy(once.parent / "texts.jsonl", folder)
    done = []
    for _ in range(random.randrange(1, 4)):
        name = random.choice([name for name, count in changes.items() if count])
        number, how = random.randrange(1, changes[name] + 1), random.choice([signal.SIGKILL] * 3 + [signal.SIGTERM])
        code, said = run(words_to(place), place / "log", signal_at, number, str(place / name), how)
        done.append(f"{how.name} at change {number} of {name or 'the run'}: {code}")
        assert code in (0, -signal.SIGKILL, 143, -signal.SIGTERM), f"{done} {said[-2000:]}"
    code, said = run(words_to(place), place / "log")
    assert code == 0, f"{done} {said[-2000:]}"
    require_same(place, once)
    return "; ".join(done)


def write_down(folder: str, out: str) -> None:
    """From now on every change that `signal_at` would count."""
    lines = os.open(out, os.O_WRONLY | os.O_CREAT)  # for as long as the process lives
    at_each_change(folder, lambda path: os.write(lines, f"{path}\n".encode()))
