"""`CrosslayerTranscoderArguments`: the knobs of the sparse family's training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from transformers.trainer_utils import IntervalStrategy

from ..base.arguments import LensTrainingArguments
from ..base.engines.engine import FEATURES
from ..errors import BadInput
from ..options import option
from ..schedules import Schedule
from .training.objective import AUXILIARY, PREACTIVATION, SPARSITY, STEEPNESS

TERMS = ("mse", "sparsity", "preactivation", "auxiliary", "kl")


@dataclass
class CrosslayerTranscoderArguments(LensTrainingArguments):
    """`per_device_train_batch_size` counts tokens. Evaluations look at `eval_rows` whole documents,
    `per_device_eval_batch_size` at a time.

    Changed defaults: `per_device_train_batch_size=4000`, `train_sampling_strategy="sequential"` (the data shuffles the
    tokens itself), `eval_rows=64`, `sample_rows=16`.
    """

    usual: ClassVar[tuple[str, ...]] = (
        *("sparsity_weight", "sparsity_ramp", "target_l0", "auxiliary_weight", "kl_weight", "kl_documents"),
        *("kl_share", "dead_after", "revive_steps"),
    )
    shown_terms: ClassVar[tuple[str, ...]] = ("mse", "sparsity", "kl")
    shown_numbers: ClassVar[tuple[str, ...]] = ("kl_recovered", "top1", "ev", "l0", "dead")

    mse_weight: str = option(
        "1", "Weight of the squared error per coordinate in standardised space: a number or a schedule."
    )
    sparsity_weight: str = option(
        f"{SPARSITY:g}",
        "Weight λ of the sum of tanh(c |W_dec| f) over the features of a token: a number or a schedule. With "
        "target_l0, its first value is where λ begins.",
    )
    sparsity_ramp: float = option(
        1.0, "Share of max_steps over which the sparsity weight rises from 0. Unused with target_l0."
    )
    sparsity_steepness: float = option(STEEPNESS, "Steepness c of the tanh of the sparsity term.")
    target_l0: float | None = option(
        None,
        "Active features per token and layer, in the mean over layers, that λ is adjusted to hold. Default: none, λ "
        "follows sparsity_weight.",
    )
    preactivation_weight: str = option(
        f"{PREACTIVATION:g}", "Weight of what dead features lack to their thresholds: a number or a schedule."
    )
    auxiliary_weight: str = option(
        f"{AUXILIARY:g}", "Weight of AuxK, the share of the error that dead features leave: a number or a schedule."
    )
    auxiliary_k: int | None = option(
        None, "Dead features per token and layer that AuxK uses. Default: half the hidden size."
    )
    kl_weight: str = option(
        "0",
        "Weight of the KL from the model to the model with all chosen sites replaced inside one pass, in nats per "
        "token: a number or a schedule.",
    )
    kl_documents: int = option(4, "Training documents per device and step on which that KL is computed.")
    kl_share: float = option(1.0, "Share of max_steps, the last ones, in which that KL is computed.")
    dead_after: int = option(1_000_000, "Tokens without being active after which a feature is dead.")
    revive_steps: int = option(
        500,
        "Steps between two revivals of dead features, in the first four fifths of the training; 0: none are revived.",
    )
    shard_features: bool = option(
        False,
        "Each process holds its share of the features of every layer and reads all tokens, in the place of all "
        "features and its share of the tokens: for a transcoder that is too large for one device.",
    )
    blocks_per_window: int = option(8, "Blocks whose tokens are shuffled together and held in memory.")

    per_device_train_batch_size: int = option(4000, "Tokens per device and step.")
    per_device_eval_batch_size: int = option(16, "Documents per device and pass.")
    train_sampling_strategy: str = option("sequential", "Order of the tokens; they come shuffled already.")
    eval_rows: int = option(64, "Held-out documents that an evaluation looks at.")
    sample_rows: int = option(16, "Held-out documents in the table of samples.")

    def __post_init__(self) -> None:
        self.schedules()
        for name in ("sparsity_ramp", "kl_share"):
            if not 0 <= vars(self)[name] <= 1:
                raise BadInput(name, vars(self)[name], "Use a share of the training, from 0 to 1.")
        for name in ("sparsity_steepness", "target_l0"):
            given = vars(self)[name]
            if given is not None and not given > 0:
                raise BadInput(name, given, "Use a number above 0.")
        least = {"auxiliary_k": 1, "kl_documents": 1, "dead_after": 1, "revive_steps": 0, "blocks_per_window": 1}
        for name, lowest in least.items():
            given = vars(self)[name]
            if given is not None and given < lowest:
                raise BadInput(name, given, f"Use {lowest} or more.")
        if self.kl_horizon:
            fix = "Leave it out: whole documents are compared at all of their tokens."
            raise BadInput("kl_horizon", self.kl_horizon, fix)
        if self.train_sampling_strategy != "sequential":
            fix = "Leave it out: the tokens are shuffled by the data, as a function of seed and epoch."
            raise BadInput("train_sampling_strategy", self.train_sampling_strategy, fix)
        super().__post_init__()

    def schedules(self) -> dict[str, Schedule]:
        """Term -> schedule of its weight."""
        return {term: Schedule.parse(vars(self)[f"{term}_weight"], field=f"{term}_weight") for term in TERMS}

    @property
    def own_engine(self) -> str | None:
        return FEATURES if self.shard_features else super().own_engine

    @property
    def evaluates(self) -> bool:
        """Whether training looks at held-out documents."""
        return self.eval_strategy != IntervalStrategy.NO
