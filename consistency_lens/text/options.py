"""The options of the command line that only the text family has."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import BadInput
from ..options import option
from .configuration import INJECTIONS, TRAINABLE, ConsistencyLensConfig


@dataclass
class LensOptions:
    """What the lens is. It goes to the Hub with the weights."""

    site: str | None = option(
        None,
        "Site that the lens reads, one of those of the rows. Default: all of them; a lens of several sites reads any "
        "one of them at a time, and is told which.",
    )
    code_length: int = option(
        ConsistencyLensConfig.code_length, "Length T: the largest number of tokens of an explanation."
    )
    prompt: str = option(ConsistencyLensConfig.prompt, "Prompt of the decoder; the activation enters at <A>.")
    injection: str = option(
        ConsistencyLensConfig.injection,
        "Way in which the activation enters: it replaces the embedding of <A>, or is added to its residual stream.",
        INJECTIONS,
    )
    trainable: str = option(
        ConsistencyLensConfig.trainable,
        "Weights that are trained: two maps alone, adapters on the frozen model, or two whole copies of it.",
        TRAINABLE,
    )
    encoder_trainable: str | None = option(
        None, "Weights of the encoder that are trained. Default: as trainable.", TRAINABLE
    )
    lora_rank: int = option(ConsistencyLensConfig.lora_rank, "Rank of the adapters.")
    lora_alpha: int = option(
        ConsistencyLensConfig.lora_alpha, "Alpha of the adapters: their output is scaled by alpha over rank."
    )


@dataclass
class BaselineOptions:
    """What a run keeps and trains beside its lens, for the report to compare it with."""

    tail_baseline: bool = option(
        True,
        "Baselines: encoders are also trained on the last T tokens of each context, and on P's token with what the "
        "model says next.",
    )
    fresh_encoder: bool = option(
        False,
        "Fresh encoder: when the lens is trained, a new encoder learns to read its texts with the same objective and "
        "budget; the report says what share of the score it reaches.",
    )
    keep_warm_start: bool = option(
        True, "Copy of the lens at the end of its warm start is kept; the report says what training changed since."
    )


@dataclass
class LayerOptions:
    """At which of its sites a lens of several reads a text."""

    layers: str | None = option(
        None,
        "Layers that explain reads a text at, of a lens of several sites: all, or some with commas between, as in "
        "2,3 or resid_post.2. The table then has a column for each. Default: the deepest.",
    )


@dataclass
class SteerOptions:
    """Where and how much `steer` changes the words."""

    position: int = option(-1, "Position of the token whose words steer changes; negative ones count from the end.")
    strength: float = option(1.0, "Strength: the factor on the change; 0 changes nothing.")
    max_new_tokens: int = option(20, "Number of tokens that the model then says, without the change and with it.")

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise BadInput("max_new_tokens", self.max_new_tokens, "Use 1 or more.")
        if not math.isfinite(self.strength):
            raise BadInput("strength", self.strength, "Use a finite number.")


@dataclass
class PlanOptions:
    """What `plan` reckons with. Speeds are those of the data sheet."""

    gpu_memory: float = option(80.0, "Memory of each GPU, in GB.")
    gpus: int = option(1, "Number of GPUs that share the work.")
    tflops: float = option(312.0, "Peak speed of each GPU in dense bfloat16, in TFLOP/s.")
    utilization: float = option(0.4, "Utilization: the share of that peak that long passes reach.")
    memory_bandwidth: float = option(2.0, "Memory bandwidth of each GPU, in TB/s.")
    link_bandwidth: float = option(300.0, "Link bandwidth between GPUs of a machine, in GB/s each way.")
    gpus_per_machine: int = option(8, "Number of GPUs in one machine.")
    network_bandwidth: float = option(40.0, "Network bandwidth of each GPU to other machines, in GB/s each way.")
    gpu_price: float | None = option(None, "Price of one GPU for an hour. Default: no price is shown.")

    def __post_init__(self) -> None:
        for name in ("gpu_memory", "tflops", "memory_bandwidth", "link_bandwidth", "network_bandwidth"):
            if not 0 < vars(self)[name] < math.inf:
                raise BadInput(name, vars(self)[name], "Give the number of its data sheet, above 0.")
        if self.gpu_price is not None and not 0 <= self.gpu_price < math.inf:
            raise BadInput("gpu_price", self.gpu_price, "Use 0 or more.")
        for name in ("gpus", "gpus_per_machine"):
            if vars(self)[name] < 1:
                raise BadInput(name, vars(self)[name], "Use 1 or more.")
        if self.gpus > self.gpus_per_machine and self.gpus % self.gpus_per_machine:
            why = f"machines of {self.gpus_per_machine} cannot have {self.gpus} GPUs between them"
            raise BadInput("gpus", self.gpus, "Use whole machines, or give --gpus_per_machine.", why)
        if not 0 < self.utilization <= 1:
            raise BadInput("utilization", self.utilization, "Use a share above 0, and at most 1.")
