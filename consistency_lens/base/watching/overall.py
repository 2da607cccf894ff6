"""What a training as a whole comes to, over all of its starts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def mean_loss(history: Iterable[Mapping[str, float]], otherwise: float) -> float:
    """Mean loss of a step, by what was logged: each entry stands for the steps since the one before.

    transformers divides the losses since the last start by the steps of all of them.

    Args:
        history: a trainer's log.
        otherwise: where no loss was logged.
    """
    total, last = 0.0, 0
    for entry in history:
        if "loss" in entry:
            total += entry["loss"] * (entry["step"] - last)
            last = int(entry["step"])
    return total / last if last else otherwise
