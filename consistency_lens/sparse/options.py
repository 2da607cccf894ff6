"""The options of the command line that only the sparse family has."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import BadInput
from ..frozen.sites import LAYERED as STAGES
from ..options import option
from .coding.nonlinear import NONLINEARITIES
from .configuration import STANDARDISATIONS, CrosslayerTranscoderConfig
from .use.using import INSIDE


@dataclass
class TranscoderOptions:
    """What the lens is. It goes to the Hub with the weights."""

    layers: str = option("all", "Layers that are read and written: all, or a window such as 8:18 without 18.")
    features: int = option(CrosslayerTranscoderConfig.features, "Features per layer.")
    crosslayer: bool = option(
        True, "Reach of features: every chosen layer from their own on, or with false their own alone."
    )
    read_stage: str = option(CrosslayerTranscoderConfig.read_stage, "Stage of each layer that is read.", STAGES)
    write_stage: str = option(
        CrosslayerTranscoderConfig.write_stage, "Stage of each layer that is reconstructed and replaced.", STAGES
    )
    nonlinearity: str = option(
        CrosslayerTranscoderConfig.nonlinearity, "Nonlinearity, which decides what is active.", NONLINEARITIES
    )
    k: int | None = option(None, "Number of active features per token and layer, of topk and batchtopk.")
    threshold: float = option(CrosslayerTranscoderConfig.threshold, "Threshold of a jumprelu before training.")
    bandwidth: float = option(
        CrosslayerTranscoderConfig.bandwidth, "Width of the window around a threshold in which it gets a gradient."
    )
    skip: bool = option(False, "Linear map of each layer's own input, added to its output.")
    tied_decoder: bool = option(False, "One decoder per target, shared by the features of all layers below it.")
    standardisation: str = option(
        CrosslayerTranscoderConfig.standardisation,
        "Scale of what is read and written: one per site, one per dimension, or none.",
        STANDARDISATIONS,
    )

    def settings(self) -> dict[str, Any]:
        """As fields of the configuration."""
        return {name: value for name, value in asdict(self).items() if name != "layers"}


@dataclass
class FeatureOptions:
    """What is shown of features, and what `explain` changes of them."""

    context_documents: int = option(
        2000,
        "Number of documents that a report searches for contexts of each feature, for its label and the card; 0 "
        "searches none.",
    )
    context_split: str = option("train", "Split that these documents are of.", ["train", "validation", "test"])
    ablate: str | None = option(
        None, "Features that explain switches off, as LAYER:NUMBER with commas between: 2:117,3:40."
    )
    amplify: str | None = option(
        None, "Features that explain multiplies, as LAYER:NUMBER=FACTOR with commas between: 2:117=3."
    )
    inside: str = option(
        INSIDE[0],
        "Pass that features are changed in: that of the model, whose MLPs stay and get the difference added, or that "
        "of the lens, which stands in their place before and after.",
        INSIDE,
    )

    def __post_init__(self) -> None:
        if self.context_documents < 0:
            raise BadInput("context_documents", self.context_documents, "Use 0 or more.")

    @property
    def factors(self) -> dict[tuple[int, int], float]:
        """(layer, feature) -> what to multiply it by."""
        found = dict.fromkeys(_features("ablate", self.ablate), 0.0)
        for part in (self.amplify or "").split(",") if self.amplify is not None else []:
            name, equals, factor = part.partition("=")
            try:
                (feature,), value = _features("amplify", name), float(factor)
            except ValueError:
                feature, value = (-1, -1), math.nan
            if not equals or not math.isfinite(value):
                raise BadInput("amplify", self.amplify, "Write LAYER:NUMBER=FACTOR, as in 2:117=3 or 2:117=0.5,3:4=2.")
            if feature in found:
                raise BadInput("amplify", self.amplify, "Name each feature once.", why=f"{name} stands twice")
            found[feature] = value
        return found


def _features(field: str, given: str | None) -> list[tuple[int, int]]:
    """`2:117,3:40` as pairs; a slash, as features are printed, will do for the colon."""
    if given is None:
        return []
    found = [re.fullmatch(r"\s*(\d+)[:/](\d+)\s*", part) for part in given.split(",")]
    pairs = [(int(each[1]), int(each[2])) for each in found if each]
    if len(pairs) != len(found) or len(set(pairs)) != len(pairs):
        raise BadInput(field, given, "Write LAYER:NUMBER with commas between, each feature once, as in 2:117,3:40.")
    return pairs
