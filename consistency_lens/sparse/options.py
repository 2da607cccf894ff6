"""The options of the command line that only the sparse family has."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ..frozen.sites import LAYERED as STAGES
from .coding.nonlinear import NONLINEARITIES
from .configuration import STANDARDISATIONS, CrosslayerTranscoderConfig


@dataclass
class TranscoderOptions:
    """What the lens is. It goes to the Hub with the weights."""

    layers: str = field(
        default="all", metadata={"help": "Layers that are read and written: all, or a window such as 8:18 without 18."}
    )
    features: int = field(default=CrosslayerTranscoderConfig.features, metadata={"help": "Features per layer."})
    crosslayer: bool = field(
        default=True,
        metadata={"help": "Reach of features: every chosen layer from their own on, or with false their own alone."},
    )
    read_stage: str = field(
        default=CrosslayerTranscoderConfig.read_stage,
        metadata={"help": "Stage of each layer that is read.", "choices": list(STAGES)},
    )
    write_stage: str = field(
        default=CrosslayerTranscoderConfig.write_stage,
        metadata={"help": "Stage of each layer that is reconstructed and replaced.", "choices": list(STAGES)},
    )
    nonlinearity: str = field(
        default=CrosslayerTranscoderConfig.nonlinearity,
        metadata={"help": "Nonlinearity, which decides what is active.", "choices": list(NONLINEARITIES)},
    )
    k: int | None = field(
        default=None, metadata={"help": "Number of active features per token and layer, of topk and batchtopk."}
    )
    threshold: float = field(
        default=CrosslayerTranscoderConfig.threshold, metadata={"help": "Threshold of a jumprelu before training."}
    )
    bandwidth: float = field(
        default=CrosslayerTranscoderConfig.bandwidth,
        metadata={"help": "Width of the window around a threshold in which it gets a gradient."},
    )
    skip: bool = field(default=False, metadata={"help": "Linear map of each layer's own input, added to its output."})
    tied_decoder: bool = field(
        default=False, metadata={"help": "One decoder per target, shared by the features of all layers below it."}
    )
    standardisation: str = field(
        default=CrosslayerTranscoderConfig.standardisation,
        metadata={
            "help": "Scale of what is read and written: one per site, one per dimension, or none.",
            "choices": list(STANDARDISATIONS),
        },
    )

    def settings(self) -> dict[str, Any]:
        """As fields of the configuration."""
        return {name: value for name, value in asdict(self).items() if name != "layers"}
