"""A few cases of every attack; more of them: `python -m tests.hostile --minutes N`."""

from __future__ import annotations

import time
from pathlib import Path
from random import Random

import pytest

from consistency_lens import BadInput

from .attacks import ATTACKS
from .trying import Tally, attempt

FEW = 4


@pytest.mark.parametrize("name", ATTACKS)
def test_it_is_refused_in_a_line_or_it_works(name: str) -> None:
    tally = Tally()
    for seed in range(FEW):
        attempt(name, ATTACKS[name], seed, tally)
    assert not tally.failed, "\n".join(tally.failed)
    assert tally.cases == FEW


def _raises(error: Exception) -> Tally:
    def attack(_folder: Path, _random: Random) -> str:
        raise error

    tally = Tally()
    attempt("x", attack, 0, tally)
    return tally


def test_what_is_no_refusal_is_a_failure_with_its_seed() -> None:
    assert _raises(BadInput("lens", "x", "Mend it.")).refused == 1
    assert "x 0: KeyError: 'a'" in _raises(KeyError("a")).failed[0]
    assert _raises(BadInput("lens", "x", "Mend it.", "Traceback (most recent call last)")).failed


def test_what_hangs_is_a_failure() -> None:
    def attack(_folder: Path, _random: Random) -> str:
        try:
            time.sleep(60)
        except Exception as error:  # as a careless reader might
            raise BadInput("lens", "x", "Mend it.") from error
        return "done"

    tally = Tally()
    attempt("x", attack, 0, tally, patience=0.05)
    assert "not done after 0.75 s of waiting" in tally.failed[0]


def test_a_seed_gives_the_same_case_again() -> None:
    tried: list[str] = []

    def attack(folder: Path, random: Random) -> str:
        assert not list(folder.iterdir())
        tried.append(str(random.random()))
        return tried[-1]

    for seed in (1, 1, 2):
        assert attempt("x", attack, seed, Tally()) == tried[-1]
    assert tried[0] == tried[1] != tried[2]
