"""`ConsistencyLensArguments`: the knobs of the text family's training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from transformers.trainer_utils import SchedulerType

from ..base.arguments import LensTrainingArguments
from ..errors import BadInput
from ..schedules import Schedule
from .warm_start import WARM_STARTS

ESTIMATORS = ("policy", "parallel", "sequential", "none")
ANCHORS = ("none", "frozen", "projections", "replay", "paraphrase")
DELTAS = ("off", "stopgrad", "grad")
TERMS = ("kl", "mse", "direction", "norm", "lm", "ground", "entropy", "policy", "reference", "replay", "start")
# Its learning rate is no function of the step.
_LOOKS_BACK = (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY)
_WEIGHT = "A number, or a schedule of the step such as 'linear(1, 0.1, 1000)' or 'cosine(...)'."


@dataclass
class ConsistencyLensArguments(LensTrainingArguments):
    """`max_steps` counts the steps of the warm start, too: it is a stage of the same run."""

    shown_terms: ClassVar[tuple[str, ...]] = ("start", "kl", "mse", "replay", "policy")
    shown_numbers: ClassVar[tuple[str, ...]] = (
        *("kl_recovered", "kl_horizon_recovered", "top1", "fve", "distinct", "text_nll"),
    )

    estimator: str = field(
        default="policy",
        metadata={
            "help": "How the decoder learns from what its words do: policy gradient, straight-through Gumbel, or not.",
            "choices": list(ESTIMATORS),
        },
    )
    rollouts: int = field(default=4, metadata={"help": "Texts per activation and step, for estimator=policy."})
    temperature: float = field(default=1.0, metadata={"help": "Of the softmax whose gradient Gumbel estimators use."})
    delta: str = field(
        default="stopgrad",
        metadata={
            "help": "Add the error on another document's A to what is put back: without gradient, with, or not.",
            "choices": list(DELTAS),
        },
    )
    warm_start: str = field(
        default="onward",
        metadata={"help": "What the decoder writes and the encoder reads at first.", "choices": list(WARM_STARTS)},
    )
    warm_steps: int = field(default=600, metadata={"help": "Length of the warm start; 0 for none."})
    warm_sure: float = field(
        default=0.3,
        metadata={
            "help": "Starting texts hold no guesses: no token that M, going on, or the decoder, reading A, gives less "
            "than this probability. 0: whole texts."
        },
    )
    warm_vague: str | None = field(
        default=None,
        metadata={
            "help": "What they say in the place of a guess: a general word of one token, such as 'something'. Without "
            "one they end there."
        },
    )
    warm_guess_share: float = field(
        default=0.7, metadata={"help": "Of the warm start, before the decoder is asked: it has to learn what A holds."}
    )
    warm_learning_rate: float = field(default=1e-3, metadata={"help": "Of both parts during the warm start."})
    anchor: str = field(
        default="none",
        metadata={"help": "What keeps the encoder a reader of language.", "choices": list(ANCHORS)},
    )
    anchor_share: float = field(
        default=0.15, metadata={"help": "Of the words that anchor=paraphrase drops or replaces before the encoder."}
    )
    quote: bool = field(
        default=False,
        metadata={"help": "The encoder reads starting texts to the end, and no decoder: the baseline to beat."},
    )
    decoder_learning_rate: float | None = field(default=None, metadata={"help": "Default: learning_rate."})
    encoder_learning_rate: float | None = field(default=None, metadata={"help": "Default: learning_rate."})
    maps_learning_rate: float | None = field(default=None, metadata={"help": "Default: learning_rate."})
    kl_weight: str = field(default="1.0", metadata={"help": f"Of KL(M(A) || M(A*)). {_WEIGHT}"})
    mse_weight: str = field(default="1.0", metadata={"help": f"Of |A - Â|² over the variance of A. {_WEIGHT}"})
    direction_weight: str = field(default="0.0", metadata={"help": f"Of the error in direction alone. {_WEIGHT}"})
    norm_weight: str = field(default="0.0", metadata={"help": f"Of the error in log norm alone. {_WEIGHT}"})
    lm_weight: str = field(
        default="0.05", metadata={"help": f"Of the text's nats per token under M, after the prompt. {_WEIGHT}"}
    )
    ground_weight: str = field(
        default="0.0", metadata={"help": f"Of the text's nats per token under M, after A's own context. {_WEIGHT}"}
    )
    entropy_weight: str = field(default="0.0", metadata={"help": f"Of the decoder's entropy, a bonus. {_WEIGHT}"})
    replay_weight: str = field(
        default="1.0", metadata={"help": f"Of the encoder's error on starting texts, for anchor=replay. {_WEIGHT}"}
    )
    reference_weight: str = field(
        default="0.1", metadata={"help": f"Of the KL to the warm-started decoder, for estimator=policy. {_WEIGHT}"}
    )

    def __post_init__(self) -> None:
        for name, known in (("estimator", ESTIMATORS), ("anchor", ANCHORS), ("delta", DELTAS)):
            if vars(self)[name] not in known:
                raise BadInput(name, vars(self)[name], f"Use one of {', '.join(known)}.")
        if self.warm_start not in WARM_STARTS:
            raise BadInput("warm_start", self.warm_start, f"Use one of {', '.join(WARM_STARTS)}.")
        if self.rollouts < 2 and self.estimator == "policy":
            raise BadInput("rollouts", self.rollouts, "Use 2 or more: each text is judged against the others.")
        if self.temperature <= 0:
            raise BadInput("temperature", self.temperature, "Use a temperature above 0.")
        if self.warm_steps < 0:
            raise BadInput("warm_steps", self.warm_steps, "Use 0 for no warm start, or a number of steps.")
        for name in ("warm_sure", "warm_guess_share", "anchor_share"):
            if not 0 <= vars(self)[name] <= 1:
                raise BadInput(name, vars(self)[name], "Use a number from 0 to 1.")
        for name in ("warm", "decoder", "encoder", "maps"):
            rate = vars(self)[f"{name}_learning_rate"]
            if rate is not None and rate <= 0:
                why = "it would hold for the warm start, too" if name != "warm" else ""
                raise BadInput(f"{name}_learning_rate", rate, "Use a rate above 0.", why)
        if self.anchor == "replay" and self.warm_start == "none":
            raise BadInput("anchor", "replay", "Name a warm_start: its texts are what is replayed.")
        if self.quote and self.warm_start == "none":
            raise BadInput("quote", True, "Name a warm_start: its texts are what is quoted.")
        if not self.schedules()["ground"].is_off and self.estimator != "policy":
            fix = "Use estimator=policy: no gradient leads from the subject's judgement to the choice of words."
            raise BadInput("ground_weight", self.ground_weight, fix, why=f"estimator={self.estimator}")
        cut = self.warm_sure > 0 and self.warm_vague is None and self.warm_start in ("context", "span")
        if cut and not self.schedules()["ground"].is_off:
            fix = "Name a warm_vague, use warm_start=onward, or warm_sure=0."
            why = f"texts of warm_start={self.warm_start} may begin anywhere in the context, once guesses are cut away"
            raise BadInput("ground_weight", self.ground_weight, fix, why)
        if self.num_warm_steps and self.lr_scheduler_type in _LOOKS_BACK:
            fix = "Use another one, such as constant or cosine, or warm_start=none."
            why = "it follows the evaluations, so that the warm start could have no learning rate of its own"
            raise BadInput("lr_scheduler_type", SchedulerType(self.lr_scheduler_type).value, fix, why)
        super().__post_init__()

    def schedules(self) -> dict[str, Schedule]:
        """Every term with its weight over the steps. What has no field of its own always weighs 1."""
        given = vars(self)
        return {term: Schedule.parse(given.get(f"{term}_weight", "1.0"), field=f"{term}_weight") for term in TERMS}

    def stages(self, max_steps: int) -> list[tuple[str, int]]:
        return [("warm start", min(self.num_warm_steps, max_steps))] if self.num_warm_steps else []

    @property
    def num_warm_steps(self) -> int:
        return 0 if self.warm_start == "none" else self.warm_steps

    @property
    def num_guessing_steps(self) -> int:
        """Of the warm start, those in which texts are whole, known to A or not."""
        return int(self.warm_guess_share * self.num_warm_steps)

    def learning_rate_of(self, part: str) -> float:
        rate = {
            "decoder": self.decoder_learning_rate,
            "encoder": self.encoder_learning_rate,
            "maps": self.maps_learning_rate,
        }[part]
        return self.learning_rate if rate is None else rate
