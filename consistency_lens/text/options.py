"""The options of the command line that only the text family has."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ..errors import BadInput
from .configuration import INJECTIONS, TRAINABLE, ConsistencyLensConfig


@dataclass
class LensOptions:
    """What the lens is. It goes to the Hub with the weights."""

    site: str | None = field(
        default=None, metadata={"help": "Site that the lens reads, one of those of the rows. Default: the only one."}
    )
    code_length: int = field(
        default=ConsistencyLensConfig.code_length,
        metadata={"help": "Length T: the largest number of tokens of an explanation."},
    )
    prompt: str = field(
        default=ConsistencyLensConfig.prompt,
        metadata={"help": "Prompt of the decoder; the activation enters at <A>."},
    )
    injection: str = field(
        default=ConsistencyLensConfig.injection,
        metadata={
            "help": "Way in which the activation enters: it replaces the embedding of <A>, or is "
            "added to its residual stream.",
            "choices": list(INJECTIONS),
        },
    )
    trainable: str = field(
        default=ConsistencyLensConfig.trainable,
        metadata={
            "help": "Weights that are trained: two maps alone, adapters on the frozen model, or two "
            "whole copies of it.",
            "choices": list(TRAINABLE),
        },
    )
    encoder_trainable: str | None = field(
        default=None,
        metadata={
            "help": "Weights of the encoder that are trained. Default: as trainable.",
            "choices": list(TRAINABLE),
        },
    )
    lora_rank: int = field(default=ConsistencyLensConfig.lora_rank, metadata={"help": "Rank of the adapters."})
    lora_alpha: int = field(
        default=ConsistencyLensConfig.lora_alpha,
        metadata={"help": "Alpha of the adapters: their output is scaled by alpha over rank."},
    )


@dataclass
class BaselineOptions:
    """What a run keeps and trains beside its lens, for the report to compare it with."""

    tail_baseline: bool = field(
        default=True,
        metadata={
            "help": "Baselines: encoders are also trained on the last T tokens of each context, and on P's token with "
            "what the model says next."
        },
    )
    fresh_encoder: bool = field(
        default=False,
        metadata={
            "help": "Fresh encoder: when the lens is trained, a new encoder learns to read its texts with the same "
            "objective and budget; the report says what share of the score it reaches."
        },
    )
    keep_warm_start: bool = field(
        default=True,
        metadata={
            "help": "Copy of the lens at the end of its warm start is kept; the report says what "
            "training changed since."
        },
    )


@dataclass
class PlanOptions:
    """What `plan` reckons with. Speeds are those of the data sheet."""

    gpu_memory: float = field(default=80.0, metadata={"help": "Memory of each GPU, in GB."})
    gpus: int = field(default=1, metadata={"help": "Number of GPUs that share the work."})
    tflops: float = field(default=312.0, metadata={"help": "Peak speed of each GPU in dense bfloat16, in TFLOP/s."})
    utilization: float = field(
        default=0.4, metadata={"help": "Utilization: the share of that peak that long passes reach."}
    )
    memory_bandwidth: float = field(default=2.0, metadata={"help": "Memory bandwidth of each GPU, in TB/s."})
    link_bandwidth: float = field(
        default=300.0, metadata={"help": "Link bandwidth between GPUs of a machine, in GB/s each way."}
    )
    gpus_per_machine: int = field(default=8, metadata={"help": "Number of GPUs in one machine."})
    network_bandwidth: float = field(
        default=40.0, metadata={"help": "Network bandwidth of each GPU to other machines, in GB/s each way."}
    )
    gpu_price: float | None = field(
        default=None, metadata={"help": "Price of one GPU for an hour. Default: no price is shown."}
    )

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
