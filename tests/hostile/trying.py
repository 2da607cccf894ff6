"""One case of an attack: it is refused in a line, or it works, and it is done in time."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from types import FrameType

from consistency_lens import BadInput, ProvenanceMismatch
from consistency_lens.activations import CorruptShard

Attack = Callable[[Path, Random], str]  # in an empty folder; returns what was tried
REFUSALS = (BadInput, ProvenanceMismatch, CorruptShard)
PATIENCE = 20.0  # seconds of computing
BUSY = 15.0  # times as long by the clock, on a machine that has other things to do


class Hangs(BaseException):
    """A case that is not done in time. No `Exception`: nobody may take it for what was to be expected."""


@dataclass
class Tally:
    """What came of an attack."""

    worked: int = 0
    refused: int = 0
    failed: list[str] = field(default_factory=list)

    @property
    def cases(self) -> int:
        return self.worked + self.refused + len(self.failed)

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.worked + other.worked, self.refused + other.refused, [*self.failed, *other.failed])


@contextmanager
def in_time(seconds: float) -> Iterator[None]:
    """Raise `Hangs` inside once this process has computed for so long, or far more time has passed without it."""

    def ring(number: int, _frame: FrameType | None) -> None:
        what = "of computing" if number == signal.SIGPROF else "of waiting"
        raise Hangs(f"not done after {seconds if number == signal.SIGPROF else BUSY * seconds:g} s {what}")

    clocks = [(signal.ITIMER_PROF, signal.SIGPROF, seconds), (signal.ITIMER_REAL, signal.SIGALRM, BUSY * seconds)]
    before = [(number, signal.signal(number, ring)) for _, number, _ in clocks]
    for clock, _, limit in clocks:
        signal.setitimer(clock, limit)
    try:
        yield
    finally:
        for clock, _, _ in clocks:
            signal.setitimer(clock, 0)
        for number, handler in before:
            signal.signal(number, handler)


def attempt(name: str, attack: Attack, seed: int, tally: Tally, patience: float = PATIENCE) -> str:
    """Try the case of one seed, and count what came of it; returns what was tried, if it worked."""
    done = ""
    with TemporaryDirectory(prefix="consistency-lens-case-") as place:
        try:
            with in_time(patience):
                done = attack(Path(place), Random(f"{name} {seed}"))
            tally.worked += 1
        except REFUSALS as error:
            if "Traceback" in str(error) or (isinstance(error, BadInput) and len(str(error)) > 3000):
                tally.failed.append(f"{name} {seed}: no line: {str(error)[:500]}")
            else:
                tally.refused += 1
        except (Exception, Hangs) as error:
            trace = "".join(traceback.format_exception(error)[-9:])
            tally.failed.append(f"{name} {seed}: {type(error).__name__}: {error}\n{trace}")
    return done
