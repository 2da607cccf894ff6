"""The options of the command line that only the text family has."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ..errors import BadInput
from .configuration import INJECTIONS, TRAINABLE, ConsistencyLensConfig


@dataclass
class LensOptions:
    """What the lens is. It goes to the Hub with the weights."""

    site: str | None = field(default=None, metadata={"help": "Which of the sites it reads. Default: the only one."})
    code_length: int = field(
        default=ConsistencyLensConfig.code_length, metadata={"help": "T, the most tokens of an explanation."}
    )
    prompt: str = field(
        default=ConsistencyLensConfig.prompt,
        metadata={"help": "What the decoder is asked; <A> is where the activation enters."},
    )
    injection: str = field(
        default=ConsistencyLensConfig.injection,
        metadata={
            "help": "The activation replaces the embedding of <A>, or is added to its residual stream.",
            "choices": list(INJECTIONS),
        },
    )
    trainable: str = field(
        default=ConsistencyLensConfig.trainable,
        metadata={
            "help": "Of the model's weights: none but two maps, adapters on them, or two whole copies.",
            "choices": list(TRAINABLE),
        },
    )
    encoder_trainable: str | None = field(
        default=None,
        metadata={"help": "The same for the encoder alone. Default: as the decoder.", "choices": list(TRAINABLE)},
    )
    lora_rank: int = field(default=ConsistencyLensConfig.lora_rank, metadata={"help": "Of the adapters."})
    lora_alpha: int = field(default=ConsistencyLensConfig.lora_alpha, metadata={"help": "Of the adapters."})


@dataclass
class BaselineOptions:
    """What a run keeps and trains beside its lens, for the report to compare it with."""

    tail_baseline: bool = field(
        default=True,
        metadata={"help": "Also train an encoder on the last T tokens of each context: the baseline to beat."},
    )
    keep_warm_start: bool = field(
        default=True,
        metadata={
            "help": "Keep the lens as its warm start left it, too: the report says what training on function changed."
        },
    )


@dataclass
class PlanOptions:
    """What `plan` reckons with. Speeds are those of the data sheet."""

    gpu_memory: float = field(default=80.0, metadata={"help": "GB of each GPU."})
    gpus: int = field(default=1, metadata={"help": "How many share the work."})
    tflops: float = field(default=312.0, metadata={"help": "Peak of each GPU in bfloat16, dense, TFLOP/s."})
    utilization: float = field(default=0.4, metadata={"help": "Share of that peak that long passes reach."})
    memory_bandwidth: float = field(default=2.0, metadata={"help": "Of each GPU, TB/s: what rollouts wait for."})
    link_bandwidth: float = field(default=300.0, metadata={"help": "Between GPUs of a machine, GB/s each way."})
    gpus_per_machine: int = field(default=8, metadata={"help": "More --gpus than that are several machines."})
    network_bandwidth: float = field(default=40.0, metadata={"help": "Of a GPU to other machines, GB/s each way."})
    gpu_price: float | None = field(default=None, metadata={"help": "Of one GPU for an hour, for the bill."})

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
