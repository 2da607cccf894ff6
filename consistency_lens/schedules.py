"""What changes over training, as pure functions step -> value: nothing to checkpoint, nothing to restart on resume.

A schedule is written as it is stored, in one string:

    1.0                             always 1
    constant(1.0, warmup=100)       0 to 1 over 100 steps, then 1
    linear(1.0, 0.1, 1000)          from 1 to 0.1 over 1000 steps, then 0.1
    cosine(1.0, 0.1, 1000)          the same along half a cosine
    exponential(1.0, 0.1, 1000)     the same, by the same factor at each step
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from .errors import BadInput

KINDS = ("constant", "linear", "cosine", "exponential")
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_PATTERN = re.compile(rf"(?P<kind>{'|'.join(KINDS)})\((?P<numbers>[^()=]*?)(?:,?\s*warmup\s*=\s*(?P<warmup>\d+))?\)")


@dataclass(frozen=True)
class Schedule:
    """A value that depends on the step alone.

    Args:
        kind: `constant`, `linear`, `cosine` or `exponential`.
        start: value after the warm-up.
        end: value from `warmup + steps` on.
        steps: how long the way from `start` to `end` takes.
        warmup: steps over which the value rises from 0 to `start` first.
    """

    kind: str
    start: float
    end: float
    steps: int = 0
    warmup: int = 0

    @classmethod
    def parse(cls, text: str | float, field: str = "schedule") -> Schedule:
        """Read a schedule as it is written on the command line; `field` is what an error calls it."""
        written = str(text).strip()
        if re.fullmatch(_NUMBER, written):
            return cls("constant", float(written), float(written))
        found = _PATTERN.fullmatch(written)
        if not found:
            raise BadInput(
                field, text, "Write a number, constant(v), or linear|cosine|exponential(start, end, steps)."
            )
        kind, warmup = found["kind"], int(found["warmup"] or 0)
        numbers = [part.strip() for part in found["numbers"].split(",")]
        if len(numbers) != (1 if kind == "constant" else 3) or not all(re.fullmatch(_NUMBER, n) for n in numbers):
            wanted = "one value" if kind == "constant" else "start, end and number of steps"
            raise BadInput(field, text, f"Give {kind} {wanted}, and warmup=N if wanted.")
        if kind == "constant":
            return cls(kind, float(numbers[0]), float(numbers[0]), warmup=warmup)
        start, end, steps = float(numbers[0]), float(numbers[1]), float(numbers[2])
        if steps < 1 or steps != int(steps):
            raise BadInput(field, text, "Use a whole number of steps, 1 or more.")
        if kind == "exponential" and start * end <= 0:
            raise BadInput(
                field, text, "Use a start and an end of one sign and not 0: no factor leads from one to the other."
            )
        return cls(kind, start, end, int(steps), warmup)

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return self.start * step / self.warmup
        done = min((step - self.warmup) / self.steps, 1.0) if self.steps else 1.0
        match self.kind:
            case "exponential":
                return self.start * (self.end / self.start) ** done
            case "cosine":
                return self.end + (self.start - self.end) * 0.5 * (1 + math.cos(math.pi * done))
            case _:
                return self.start + (self.end - self.start) * done

    @property
    def is_off(self) -> bool:
        """Whether the value is 0 at every step."""
        return self.start == self.end == 0

    def __str__(self) -> str:
        warmup = f", warmup={self.warmup}" if self.warmup else ""
        if self.kind == "constant":
            return f"constant({self.start:g}{warmup})" if warmup else f"{self.start:g}"
        return f"{self.kind}({self.start:g}, {self.end:g}, {self.steps}{warmup})"
