"""What a bit buys in each medium: the bits of a code against the KL recovered, from the reports of lenses.

Nothing is computed again: a report has what its lens and its controls cost, and what they recover.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import BadInput
from ..evaluation import Number, Report
from ..evaluation.about import LENS
from ..text.report.definitions import LOOKS_AHEAD, TEXT, truncation

KL, LOWEST = "kl_recovered", -1.0
MEDIA = {"consistency_lens": "words", "crosslayer_transcoder": "features", "latent_wire": "soft tokens"}


@dataclass(frozen=True)
class RatePoint:
    """One code of one run.

    Args:
        medium: words, features or soft tokens.
        run: what its run is called.
        code: as the report calls it; `lens` is the lens as it was trained.
        bits: per token that is read, or per position that is explained.
        value, low, high: kl_recovered with its interval.
        control: it does not come from the lens.
    """

    medium: str
    run: str
    code: str
    bits: float
    value: float
    low: float
    high: float
    control: bool

    @property
    def name(self) -> str:
        """The code, in words where it is the lens as it was trained."""
        return "the lens" if self.code == LENS else self.code

    @property
    def score(self) -> Number:
        """The value with its interval, which it is printed with."""
        return Number(self.value, self.low, self.high)

    @property
    def drawn(self) -> tuple[float, float, float]:
        """Lower end, value and upper end as a picture shows them: what lies below -1 stands at its edge."""
        low, value, high = (max(each, LOWEST) for each in (self.low, self.value, self.high))
        return low, value, high

    @property
    def line(self) -> tuple[str, str]:
        """What is joined in a picture: codes of one run, and of a wire those of as many vectors."""
        return self.run, self.code.rpartition(" ")[0]


def rate_points(report: Report, run: str) -> list[RatePoint]:
    """The lens at each rate that its report has, then the controls, by rate.

    Args:
        report: of a lens of any family.
        run: what it is called beside others.
    """
    medium = MEDIA.get(report.lens["family"])
    if medium is None:
        raise BadInput("runs", run, f"Give runs of {', '.join(MEDIA)}.", why=f"its family is {report.lens['family']}")
    numbers = report.parts["all"].numbers
    found = [
        RatePoint(medium, run, code, bits, score.value, score.low, score.high, control)
        for code, bits, control in {"words": _words, "features": _features, "soft tokens": _soft}[medium](report)
        if (score := numbers.get(code, {}).get(KL)) is not None
    ]
    return sorted(found, key=lambda point: (point.control, point.bits, point.code))


def _words(report: Report) -> Iterator[tuple[str, float, bool]]:
    """A word is worth what the frozen model needs to say it: its negative log-likelihood."""
    bits, length = report.traits["text_nll"].value / math.log(2), report.traits["length"].value
    for code in report.parts["all"].numbers:
        if kept := truncation(code):
            yield code, min(kept, length) * bits, False
    yield LENS, length * bits, False
    for group in (TEXT, LOOKS_AHEAD):
        yield from ((code, length * bits, True) for code in report.groups.get(group, []) if not truncation(code))


def _features(report: Report) -> Iterator[tuple[str, float, bool]]:
    """The report's `rate`, which is which features are active, and b bits for the value of each. The lens itself has
    values that are not rounded, and no rate."""
    numbers, own = report.parts["all"].numbers[LENS], report.traits["value_bits"].value
    rate, active = numbers["rate"].value, numbers["l0"].value * len(report.lens["sites"])
    for code in report.parts["all"].numbers:
        bits = code.removeprefix("values_")
        if bits.isdigit():
            yield code, rate + (int(bits) - own) * active, False
    for code in ("shuffled", "random", "pca", "per_layer"):
        yield code, rate, True


def _soft(report: Report) -> Iterator[tuple[str, float, bool]]:
    """Bytes on the wire, headers included, over the tokens of the passage; truncated texts by their own bytes."""
    tokens = report.traits["vectors"].value * report.traits["tokens_per_vector"].value
    for code, numbers in report.judged.items():
        if "bytes" in numbers and code != "text":
            lens = code == LENS or code.endswith(("fp16", *(f"int{bits}" for bits in (4, 6, 8))))
            yield code, 8 * numbers["bytes"].value / tokens, not lens
    yield "shuffled", 8 * report.judged[LENS]["bytes"].value / tokens, True
