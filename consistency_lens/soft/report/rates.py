"""Rates at which the same lens is measured besides its own: other numbers of vectors, other numbers of bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..bytes.quantising import BITS
from ..configuration import LatentWireConfig


@dataclass(frozen=True)
class Rate:
    """
    Args:
        bits: of each coordinate.
        ratio: tokens per vector; None as the lens has it.
        slots: vectors, in the place of a ratio.
    """

    bits: int
    ratio: float | None = None
    slots: int | None = None

    @property
    def size(self) -> str:
        """How many vectors, in a word; '' for as many as the lens has."""
        return f"{self.ratio:g}x" if self.ratio is not None else f"M={self.slots}" if self.slots is not None else ""

    @property
    def name(self) -> str:
        return " ".join(part for part in (self.size, f"int{self.bits}" if self.bits < 16 else "fp16") if part)

    @property
    def definition(self) -> str:
        many = "as many vectors" if self.ratio is None else f"one vector for {self.ratio:g} tokens"
        many = f"{self.slots} vectors" if self.slots is not None else many
        return f"the same lens with {many}, {self.bits} bits for each number"


def rates_of(config: LatentWireConfig, factors: Sequence[float] = (2.0,)) -> list[Rate]:
    """The lens's own number of vectors at all other bits, then fewer vectors at the lens's own bits and at 16.

    Args:
        config: of the lens.
        factors: so many times fewer vectors.
    """
    found = [Rate(bits) for bits in BITS if bits != config.bits]
    for factor in factors:
        slots = None if config.slots is None else int(config.slots // factor)
        if config.pooling == "learned" or slots == 0:
            continue  # it has as many vectors as queries, or none would be left
        ratio = None if config.ratio is None else config.ratio * factor
        found += [Rate(bits, ratio, slots) for bits in dict.fromkeys((config.bits, 16))]
    return found
