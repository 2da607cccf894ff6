"""Operations of a step, part by part, and the time they take.

Two operations per weight and token, forward; the backward pass costs as much again for what gradients pass through,
and as much again for weights that learn. Attention adds, for each token, twice its width for each token it attends to,
for scores and for values. A long pass is bound by the card's speed; a step of a rollout also reads all weights, for a
few tokens, and the two hardly overlap.
"""

from __future__ import annotations

from dataclasses import dataclass

from .memory import subject_bytes, trained_of
from .work import BYTES, Card, Sizes, Work

BASELINES = 2  # encoders of texts that no decoder wrote


@dataclass(frozen=True)
class Hours:
    """
    Args:
        seconds: part -> of one step of the functional stage.
        warm: seconds of a step of the warm start.
        total: hours of both stages.
        baseline: hours of the baselines that a report compares with, each trained as long; none where weights are
            spread, since no process holds them when the training is over.
        tokens: per second that pass through the model in the functional stage, over all processes.
    """

    seconds: dict[str, float]
    warm: float
    total: float
    baseline: float
    tokens: float


class _Passes:
    """Operations of passes through the model, for tokens that attend to so many others."""

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes

    def through(self, tokens: float, attended: float, blocks: int | None = None) -> float:
        share = 1.0 if blocks is None else blocks / self.sizes.depth
        attention = 2 * attended * self.sizes.heads * self.sizes.depth
        return share * tokens * (2 * self.sizes.linear + attention)

    def head(self, tokens: float) -> float:
        return 2.0 * tokens * self.sizes.width * self.sizes.words


def operations_of(sizes: Sizes, work: Work) -> dict[str, float]:
    """Part of a step -> operations of one process in one pass (`rows` activations)."""
    passes, N, T = _Passes(sizes), work.texts, work.length
    above = sizes.depth - work.site_depth
    written, whole = work.prompt + T - 1, work.context + work.horizon
    back = (2.0 if work.trainable == "full" else 1.0) + (1.0 if work.checkpointing else 0.0)
    said = passes.through(N * written, written / 2)
    read = passes.through(N * (1 + T), (1 + T) / 2, work.site_depth)
    columns = N * work.columns
    found = {
        "prefix": passes.through(work.rows * (work.context - 1), work.context / 2),
        "clean": passes.through(work.rows * work.columns, whole) + passes.head(work.rows * work.columns),
        "rollout": said + passes.head(N * T),
        "teacher-forced": (1 + back) * said + (2 if work.trainable != "full" else 3) * passes.head(N * T),
        "encoder": (1 + back) * read,
        "edited": passes.through(columns, whole) + passes.through(columns, whole, above) + 2 * passes.head(columns),
    }
    if work.policy and work.remembered:
        found["reference"] = said + passes.head(N * T)
    if work.language:
        found["language"] = passes.through(N * (T + 1), work.prompt + T / 2) + passes.head(N * (T + 1))
    if work.grounded:
        found["grounding"] = passes.through(N * (T + 1), work.context + T / 2) + passes.head(N * (T + 1))
    return found


def hours_of(sizes: Sizes, work: Work, card: Card, steps: int, warm_steps: int) -> Hours:
    """Of the training alone: extraction says its own bill, evaluations and the report come on top.

    Args:
        steps: of both stages.
        warm_steps: of them, those of the warm start.
    """
    seconds = {name: work.accumulation * n / card.speed for name, n in operations_of(sizes, work).items()}
    # Each token of a rollout reads the weights once.
    reading = (subject_bytes(sizes, work) if work.trainable != "full" else 4.0 * sizes.weights) / card.bandwidth
    seconds["rollout"] += work.accumulation * work.length * reading
    seconds["optimizer"] = 28.0 * sum(trained_of(sizes, work).values()) / card.bandwidth  # reads and writes of Adam
    if work.processes > 1:
        seconds["between cards"] = _sending(sizes, work, card)
    once = {name: seconds[name] for name in ("teacher-forced", "encoder") if name in seconds}
    warm = (sum(once.values()) + seconds.get("reference", 0.0)) / work.rollouts + seconds["optimizer"]
    warm += seconds["prefix"] + seconds["rollout"] / work.rollouts  # the starting texts, which the frozen model says
    warm += seconds.get("between cards", 0.0)
    step = sum(seconds.values())
    judged = (
        sum(seconds[name] for name in ("prefix", "clean")) + (seconds["encoder"] + seconds["edited"]) / work.rollouts
    )
    tokens = work.processes * work.accumulation * tokens_of(work) / step
    functional = steps - warm_steps
    baseline = warm_steps * (seconds["encoder"] / work.rollouts + seconds["optimizer"]) + functional * judged
    return Hours(
        seconds,
        warm,
        (warm_steps * warm + functional * step) / 3600,
        0.0 if work.spread else BASELINES * baseline / 3600,
        tokens,
    )


def tokens_of(work: Work) -> int:
    """That pass through the model in one pass of one process, forward."""
    N, T, written = work.texts, work.length, work.prompt + work.length - 1
    said = written * (3 if work.policy and work.remembered else 2)
    more = (T + 1) * (work.language + work.grounded)
    return work.rows * (work.context + work.horizon) + N * (said + 1 + T + work.columns + more)


def _sending(sizes: Sizes, work: Work, card: Card) -> float:
    """Seconds of a step in which gradients, and weights that are spread, go around between cards."""
    gradients, shards, copies = 4.0 * sum(trained_of(sizes, work).values()), work.shards, work.copies
    summed = 2 * (copies - 1) / copies * gradients / shards / card.between(work.processes)
    if not work.spread:
        return summed
    # Prefix, clean, scored and back, read and back, edited and back; what is asked besides; each token of a rollout.
    through = 8 + work.policy + work.language + work.grounded + work.length
    gathered = work.accumulation * through * BYTES[work.dtype] * sizes.weights
    scattered = work.accumulation * gradients  # in each pass, or each process would have to keep all of them
    return (shards - 1) / shards * (gathered + scattered) / card.between(shards) + work.accumulation * summed
