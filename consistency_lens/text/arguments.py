"""`ConsistencyLensArguments`: the knobs of the text family's training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from transformers.trainer_utils import SchedulerType

from ..base.arguments import LensTrainingArguments
from ..errors import BadInput
from ..options import Former, option
from ..schedules import Schedule
from .starting.texts import EVIDENCE, KINDS

ESTIMATORS = ("policy", "parallel", "sequential", "none")
DELTAS = ("off", "stopgrad", "grad")
TERMS = ("kl", "mse", "lm", "ground", "policy", "reference", "start")
# Its learning rate is no function of the step.
_LOOKS_BACK = (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY)
_WEIGHT = "A number, or a schedule such as 'linear(1, 0.1, 1000)'."


@dataclass
class ConsistencyLensArguments(LensTrainingArguments):
    """`max_steps` counts the steps of the warm start, too: it is a stage of the same run."""

    usual: ClassVar[tuple[str, ...]] = (
        *("estimator", "rollouts", "delta", "kl_horizon"),
        *("warm_start", "warm_steps", "warm_sure", "warm_vague", "warm_learning_rate"),
        *("kl_weight", "mse_weight", "lm_weight", "ground_weight", "encoder_learning_rate", "ema_decay"),
    )
    former: ClassVar[Mapping[str, Former]] = {
        "anchor": Former("No anchor kept words nearer to language than lm_weight and ground_weight do.", "none"),
        "direction_weight": Former("Use mse_weight.", "0.0"),
        "norm_weight": Former("Use mse_weight.", "0.0"),
        "entropy_weight": Former("Use a lower learning_rate, or reference_weight.", "0.0"),
        **dict.fromkeys(("anchor_share", "replay_weight"), Former()),
    }
    shown_terms: ClassVar[tuple[str, ...]] = ("start", "kl", "mse", "policy")
    shown_numbers: ClassVar[tuple[str, ...]] = (
        *("kl_recovered", "kl_horizon_recovered", "top1", "fve", "distinct", "text_nll"),
    )

    estimator: str = option(
        "policy",
        "Estimator of the gradient to the choice of words: policy gradient, straight-through Gumbel (parallel, "
        "sequential), or none.",
        ESTIMATORS,
    )
    rollouts: int = option(4, "Number of texts per activation and step, for estimator=policy.")
    temperature: float = option(1.0, "Temperature of the softmax whose gradient the Gumbel estimators use.")
    delta: str = option(
        "stopgrad",
        "Error of the lens on another document's activation, added to what is put back: without gradient, with, or "
        "off.",
        DELTAS,
    )
    warm_start: str = option(
        "onward", "Texts that the decoder learns to write and the encoder to read at first.", KINDS
    )
    warm_steps: int = option(600, "Number of steps of the warm start; 0 for none.")
    warm_sure: float = option(
        0.0,
        "Probability below which a token of a starting text is a guess, under the model or the decoder: the text "
        "ends there, or says warm_vague instead. 0 keeps whole texts.",
    )
    warm_vague: str | None = option(
        None,
        "Word of one token in the place of a guess of warm_sure, such as 'something'. Default: the text ends at a "
        "guess.",
    )
    warm_guess_share: float = option(
        0.7, "Share of the warm start after which the decoder, too, says what a guess is."
    )
    warm_evidence: float = option(
        0.5,
        "Share of the tokens of a text of warm_start=evidence that are words of the context; the others are P's "
        "token and what the model says next.",
    )
    warm_foresight: int = option(
        0,
        "Length in tokens of four continuations that are sampled behind P, for warm_start=evidence: the words of the "
        "context on which they depend most are the evidence. 0 takes the words on which the text's own continuation "
        "depends.",
    )
    warm_learning_rate: float = option(1e-3, "Learning rate of all parts during the warm start.")
    quote: bool = option(False, "Baseline mode: the encoder learns from starting texts alone, and no decoder.")
    decoder_learning_rate: float | None = option(None, "Learning rate of the decoder. Default: learning_rate.")
    encoder_learning_rate: float | None = option(None, "Learning rate of the encoder. Default: learning_rate.")
    maps_learning_rate: float | None = option(None, "Learning rate of the two linear maps. Default: learning_rate.")
    kl_weight: str = option("1.0", f"Weight of KL(M(A) || M(A*)). {_WEIGHT}")
    mse_weight: str = option("1.0", f"Weight of |A - Â|² over the variance of A. {_WEIGHT}")
    lm_weight: str = option("0.05", f"Weight of the text's nats per token under M, behind the prompt. {_WEIGHT}")
    ground_weight: str = option(
        "0.0", f"Weight of the text's nats per token under M, behind A's own context. {_WEIGHT}"
    )
    reference_weight: str = option(
        "0.1", f"Weight of the KL to the warm-started decoder, for estimator=policy. {_WEIGHT}"
    )

    def __post_init__(self) -> None:
        for name, known in (("estimator", ESTIMATORS), ("delta", DELTAS)):
            if vars(self)[name] not in known:
                raise BadInput(name, vars(self)[name], f"Use one of {', '.join(known)}.")
        if self.warm_start not in KINDS:
            raise BadInput("warm_start", self.warm_start, f"Use one of {', '.join(KINDS)}.")
        if self.warm_start == EVIDENCE and not self.schedules()["ground"].is_off:
            fix = "Use ground_weight=0, or warm_start=onward."
            why = "words of evidence do not stand in a place where they could be judged as a continuation"
            raise BadInput("ground_weight", self.ground_weight, fix, why)
        if self.rollouts < 2 and self.estimator == "policy":
            raise BadInput("rollouts", self.rollouts, "Use 2 or more: each text is judged against the others.")
        if self.temperature <= 0:
            raise BadInput("temperature", self.temperature, "Use a temperature above 0.")
        if self.warm_steps < 0:
            raise BadInput("warm_steps", self.warm_steps, "Use 0 for no warm start, or a number of steps.")
        for name in ("warm_sure", "warm_guess_share", "warm_evidence"):
            if not 0 <= vars(self)[name] <= 1:
                raise BadInput(name, vars(self)[name], "Use a number from 0 to 1.")
        if self.warm_foresight < 0:
            fix = "Use 0, or how many tokens the model goes on behind P."
            raise BadInput("warm_foresight", self.warm_foresight, fix)
        if self.warm_foresight and self.warm_start != EVIDENCE:
            fix = f"Use warm_start={EVIDENCE}, or warm_foresight=0."
            raise BadInput("warm_foresight", self.warm_foresight, fix, why=f"warm_start={self.warm_start}")
        for name in ("warm", "decoder", "encoder", "maps"):
            rate = vars(self)[f"{name}_learning_rate"]
            if rate is not None and rate <= 0:
                why = "it would hold for the warm start, too" if name != "warm" else ""
                raise BadInput(f"{name}_learning_rate", rate, "Use a rate above 0.", why)
        if self.quote and self.warm_start == "none":
            raise BadInput("quote", True, "Name a warm_start: its texts are what is quoted.")
        if not self.schedules()["ground"].is_off and self.estimator != "policy":
            fix = "Use estimator=policy: no gradient leads from the frozen model's judgement to the choice of words."
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
