"""A picture with two axes that follows the page's colours, drawn as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LEFT, BOTTOM, EDGE = 62, 52, 24


@dataclass(frozen=True)
class Frame:
    """What stands around what is drawn.

    Args:
        title: what the picture is, for whoever does not see it.
        across: the name of the axis below.
        up: the name of the axis beside.
        width, height: of the picture.
    """

    title: str
    across: str
    up: str
    width: int = 440
    height: int = 300

    @property
    def right(self) -> int:
        """Where the drawing ends; it begins at `LEFT`."""
        return self.width - EDGE

    @property
    def bottom(self) -> int:
        """Where the drawing ends below; it begins at `EDGE`."""
        return self.height - BOTTOM

    def figure(self, drawn: Iterable[str], ticks: Iterable[tuple[float, str]], up: Scale, keys: Iterable[str]) -> str:
        """The whole picture.

        Args:
            drawn: what stands in it.
            ticks: places on the axis below, and what stands there.
            up: the axis beside.
            keys: the legend.
        """
        axes = [f"<text x='{x:.1f}' y='{self.bottom + 18}' text-anchor='middle'>{said}</text>" for x, said in ticks]
        for value in up.ticks:
            said = f"{value:.{up.digits}f}"
            axes.append(f"<text x='{LEFT - 8}' y='{up(value) + 4:.1f}' text-anchor='end'>{said}</text>")
            axes.append(f"<path class='grid' d='M{LEFT} {up(value):.1f}H{self.right}'/>")
        middle, beside = (LEFT + self.right) / 2, (self.bottom + EDGE) / 2
        names = (
            f"<text x='{middle}' y='{self.height - 8}' text-anchor='middle'>{self.across}</text>"
            f"<text transform='translate(14 {beside}) rotate(-90)' text-anchor='middle'>{self.up}</text>"
        )
        size = f"viewBox='0 0 {self.width} {self.height}'"
        return (
            f"<figure class='curve'><svg {size} role='img' aria-label='{self.title}'>"
            f"{''.join(axes)}{names}{''.join(drawn)}</svg><ul class='legend'>{''.join(keys)}</ul></figure>"
        )


class Scale:
    """From values to places on the picture."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.high, self.start, self.end = low, high, start, end
        step = 10 ** math.floor(math.log10((high - low) / 3))
        step *= next(times for times in (1, 2, 5, 10) if times * step * 5 >= high - low)
        self.digits = max(0, -math.floor(math.log10(step) + 1e-9))  # as many as tell two ticks apart
        self.ticks = [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float) -> Scale:
        """With a little room round the outermost values."""
        low, high = min(values), max(values)
        room = 0.08 * (high - low) or max(abs(low), 1.0) * 0.01
        return cls(low - room, high + room, start, end)

    def __call__(self, value: float) -> float:
        return self.start + (self.end - self.start) * (value - self.low) / (self.high - self.low)
