"""`LatentWireArguments`: the knobs of the soft family's training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..base.arguments import LensTrainingArguments
from ..errors import BadInput
from ..options import option
from ..schedules import Schedule

TERMS = ("ce", "kd")


@dataclass
class LatentWireArguments(LensTrainingArguments):
    """Changed defaults: `eval_rows=128` (each is read by every receiver, with the text and without)."""

    usual: ClassVar[tuple[str, ...]] = (
        "kd_weight",
        "first_weight",
        "train_ratio",
        "train_ratios",
        "receiver_learning_rate",
    )
    shown_terms: ClassVar[tuple[str, ...]] = ("ce", "kd")
    shown_numbers: ClassVar[tuple[str, ...]] = ("kl_recovered", "nll", "first_token")

    ce_weight: str = option("1", "Weight of the cross-entropy of the answers: a number or a schedule.")
    kd_weight: str = option(
        "0",
        "Weight of the KL from what the text-prompted model predicts at the same answer tokens: a number or a "
        "schedule.",
    )
    kd_words: int = option(64, "Likeliest words of the text-prompted model that this KL compares.")
    kd_temperature: float = option(1.0, "Temperature of both sides of this KL.")
    first_weight: float = option(0.5, "Extra weight of the first token of an answer in the cross-entropy.")
    train_ratio: str = option(
        "",
        "Tokens per vector while training: a number or a schedule, such as linear(1, 4, 2000). Default: the lens's "
        "own rate.",
    )
    train_ratios: list[float] = option(
        [],
        "Numbers of tokens per vector, of which each step draws one, so that the rate can be chosen at use; never "
        "above what train_ratio says at that step. Default: train_ratio alone.",
    )
    receiver_batches: int = option(
        1,
        "Number of batches in a row that the same receiver reads; with --sequential, models change places between "
        "them.",
    )
    receiver_learning_rate: float | None = option(None, "Learning rate of the adapters. Default: learning_rate.")

    eval_rows: int = option(128, "Number of validation rows in an evaluation.")

    def __post_init__(self) -> None:
        self.schedules()
        if self.kd_words < 1:
            raise BadInput("kd_words", self.kd_words, "Use 1 or more.")
        if self.receiver_batches < 1:
            raise BadInput("receiver_batches", self.receiver_batches, "Use 1 or more.")
        if not self.kd_temperature > 0:
            raise BadInput("kd_temperature", self.kd_temperature, "Use a number above 0.")
        if not self.first_weight >= 0:
            raise BadInput("first_weight", self.first_weight, "Use 0 or more.")
        if self.receiver_learning_rate is not None and not self.receiver_learning_rate >= 0:
            raise BadInput("receiver_learning_rate", self.receiver_learning_rate, "Use 0 or more.")
        rate = self.rate()
        if rate is not None and not (min(rate.start, rate.end) >= 1 and not rate.warmup):
            raise BadInput("train_ratio", self.train_ratio, "Use 1 (a vector for each token) or more, and no warm-up.")
        for ratio in self.train_ratios:
            if not 1 <= ratio < math.inf:
                raise BadInput("train_ratios", ratio, "Use 1 (a vector for each token) or more.")
        super().__post_init__()

    def schedules(self) -> dict[str, Schedule]:
        """Term -> schedule of its weight."""
        return {term: Schedule.parse(vars(self)[f"{term}_weight"], field=f"{term}_weight") for term in TERMS}

    def rate(self) -> Schedule | None:
        """Tokens per vector, a function of the step; None where the lens's own rate is trained."""
        return Schedule.parse(self.train_ratio, field="train_ratio") if str(self.train_ratio).strip() else None

    def ratio_at(self, step: int, turn: int) -> float | None:
        """Tokens per vector in a step, a function of (seed, turn) where it is drawn; None for the lens's own rate."""
        rate = self.rate()
        most = None if rate is None else rate(step)
        if not self.train_ratios:
            return most
        drawn = self.train_ratios[int(np.random.default_rng([self.seed, turn, 1]).integers(len(self.train_ratios)))]
        return drawn if most is None else min(drawn, most)

    def learning_rate_of(self, part: str) -> float:
        own = self.receiver_learning_rate
        return own if part == "receivers" and own is not None else self.learning_rate
