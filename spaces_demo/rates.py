"""Fidelity against rate as a picture: bits on a logarithmic axis, kl_recovered upwards."""

from __future__ import annotations

import math
from collections.abc import Sequence

from charts import EDGE, LEFT, Frame, Scale
from marking import safe

from consistency_lens import RatePoint

FRAME = Frame(
    title="Fidelity (kl_recovered) against rate (bits), with 95 % intervals; crosses are controls",
    across="bits per token or position (left is shorter)",
    up="kl_recovered",
)
SHAPES = {"words": "one", "features": "two", "soft tokens": "three"}
MARKS = (1, 2, 5)  # of each power of ten, on the axis of bits


def draw(points: Sequence[RatePoint]) -> str:
    """A line for each run, with intervals; crosses for what does not come from a lens."""
    across = _Bits([point.bits for point in points])
    up = Scale.over([at for point in points for at in point.drawn], FRAME.bottom, EDGE)
    lines = []
    for line in dict.fromkeys(point.line for point in points):
        own = [point for point in points if point.line == line and not point.control]
        path = " ".join(f"{across(point.bits):.1f},{up(point.drawn[1]):.1f}" for point in own)
        if own:
            lines.append(f"<polyline class='rate {SHAPES[own[0].medium]}' points='{path}'/>")
    lines += [_point(point, across, up) for point in points]
    ticks = [(across(bits), f"{bits:,g}") for bits in across.ticks]
    media = dict.fromkeys(point.medium for point in points)
    keys = [f"<li><i class='rate-key {SHAPES[medium]}'></i> {medium}</li>" for medium in media]
    return FRAME.figure(lines, ticks, up, [*keys, "<li>× a control</li>"])


def _point(point: RatePoint, across: _Bits, up: Scale) -> str:
    """With its interval, and in words where the pointer rests."""
    x, kind = across(point.bits), SHAPES[point.medium] + (" control-point" if point.control else "")
    low, y, high = map(up, point.drawn)
    said = f"{point.run}, {point.name}: {point.bits:,.1f} bits, kl_recovered {point.value:.3f}"
    if point.control:
        mark = f"<path d='M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8'/>"
    else:
        mark = f"<circle cx='{x:.1f}' cy='{y:.1f}' r='4'/>"
    bar = f"<path d='M{x:.1f} {low:.1f}V{high:.1f}'/>"
    return f"<g class='rate {kind}'><title>{safe(said)}</title>{bar}{mark}</g>"


class _Bits:
    """From bits to places on the picture."""

    def __init__(self, bits: Sequence[float]) -> None:
        self.low, self.high = math.log10(min(bits)) - 0.08, math.log10(max(bits)) + 0.08
        powers = range(math.floor(self.low), math.ceil(self.high) + 1)
        every = [mark * 10.0**power for power in powers for mark in (MARKS if self.high - self.low < 2 else MARKS[:1])]
        self.ticks = [bits for bits in every if self.low <= math.log10(bits) <= self.high]
        if len(self.ticks) < 2:  # a short axis between two marks
            self.ticks = sorted({float(f"{end:.3g}") for end in (min(bits), max(bits))})

    def __call__(self, bits: float) -> float:
        share = (math.log10(bits) - self.low) / (self.high - self.low)
        return LEFT + (FRAME.right - LEFT) * share
