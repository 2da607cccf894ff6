"""`HeldSparsity`: a weight of the sparsity term that holds a target number of active features.

The next state is a function of the present one and of what was measured; both are logged, and the state is saved with
a checkpoint, so that a training that goes on has the weights of one that never stopped.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from ...errors import BadInput


@dataclass(frozen=True)
class HeldSparsity:
    """
    Args:
        target: active features per token, in all layers together or in the mean over them, as `l0` is measured.
        weight: λ.
        smoothed: moving average of the measured l0; None before the first.
        gain: by which share of the distance, in logarithms, λ moves at each step.
        damping: how far λ moves with the average itself: while L0 is falling, λ falls, so that L0 does not fall
            through the target.
        memory: share of the moving average that stays at each step.
        largest_step: no step multiplies or divides λ by more than e to this.
        lowest, highest: bounds of λ.
    """

    target: float
    weight: float
    smoothed: float | None = None
    gain: float = 0.02
    damping: float = 2.0
    memory: float = 0.9
    largest_step: float = 0.1
    lowest: float = 1e-9
    highest: float = 1e3

    def __post_init__(self) -> None:
        if not self.target > 0:
            raise BadInput("target_l0", self.target, "Use a number above 0.")
        if not self.lowest <= self.weight <= self.highest:
            raise BadInput("sparsity_weight", self.weight, f"Use {self.lowest} to {self.highest}.")

    def next(self, l0: float) -> HeldSparsity:
        """The state after a step in which so many features were active:

            log λ' = log λ + gain · (log l̄ - log target) + damping · (log l̄ - log l̄ before)

        A step with nothing active counts as a hundredth of the target: the logarithm stays finite.
        """
        smoothed = l0 if self.smoothed is None else self.memory * self.smoothed + (1 - self.memory) * l0
        distance, before = (
            math.log(max(l0, 0.01 * self.target) / self.target)
            for l0 in (smoothed, smoothed if self.smoothed is None else self.smoothed)
        )
        wanted = self.gain * distance + self.damping * (distance - before)
        step = max(-self.largest_step, min(self.largest_step, wanted))
        weight = max(self.lowest, min(self.highest, self.weight * math.exp(step)))
        return replace(self, weight=weight, smoothed=smoothed)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> HeldSparsity:
        return cls(**saved)
