"""Consistency Lens: explain the activations of an LLM, and measure each explanation by what the LLM then predicts.

The public names below are imported when they are first used: `import consistency_lens` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .activations import (
        ActivationCollator,
        Activations,
        Corpus,
        CorpusArguments,
        CorruptShard,
        ExtractArguments,
        Extraction,
    )
    from .activations.blocks import BlockArguments, BlockExtraction, Blocks
    from .activations.passages import PassageArguments, Passages
    from .auto import AutoLens, evaluate_lens, view_of
    from .base.arguments import LensTrainingArguments
    from .base.configuration import LensConfig
    from .base.modeling import LensModel
    from .base.trainer import LensTrainer
    from .base.viewing import LensView
    from .crossing import RatePoint, rate_points
    from .errors import BadInput
    from .evaluation import Report
    from .evaluation.metric import Fidelity
    from .frozen import Decoding, Edit, FrozenLM, FrozenModels, Generated, Prefix, Provenance, ProvenanceMismatch, Site
    from .soft.arguments import LatentWireArguments
    from .soft.bytes.wire import Wire
    from .soft.configuration import LatentWireConfig
    from .soft.modeling import LatentWire
    from .soft.trainer import LatentWireTrainer
    from .sparse.arguments import CrosslayerTranscoderArguments
    from .sparse.configuration import CrosslayerTranscoderConfig
    from .sparse.modeling import CrosslayerTranscoder
    from .sparse.trainer import CrosslayerTranscoderTrainer
    from .text.arguments import ConsistencyLensArguments
    from .text.configuration import ConsistencyLensConfig
    from .text.modeling import ConsistencyLens
    from .text.parts.decoder_encoder import LensDecoder, LensEncoder
    from .text.trainer import ConsistencyLensTrainer
    from .text.use.steering import Steered

# Module -> the public names that are imported from it when they are first used.
_NAMES = {
    ".activations": "ActivationCollator Activations Corpus CorpusArguments CorruptShard ExtractArguments Extraction",
    ".activations.blocks": "BlockArguments BlockExtraction Blocks",
    ".activations.passages": "PassageArguments Passages",
    ".auto": "AutoLens evaluate_lens view_of",
    ".base.arguments": "LensTrainingArguments",
    ".base.configuration": "LensConfig",
    ".base.modeling": "LensModel",
    ".base.trainer": "LensTrainer",
    ".base.viewing": "LensView",
    ".crossing": "RatePoint rate_points",
    ".errors": "BadInput",
    ".evaluation": "Report",
    ".evaluation.metric": "Fidelity",
    ".frozen": "Decoding Edit FrozenLM FrozenModels Generated Prefix Provenance ProvenanceMismatch Site",
    ".soft.arguments": "LatentWireArguments",
    ".soft.bytes.wire": "Wire",
    ".soft.configuration": "LatentWireConfig",
    ".soft.modeling": "LatentWire",
    ".soft.trainer": "LatentWireTrainer",
    ".sparse.arguments": "CrosslayerTranscoderArguments",
    ".sparse.configuration": "CrosslayerTranscoderConfig",
    ".sparse.modeling": "CrosslayerTranscoder",
    ".sparse.trainer": "CrosslayerTranscoderTrainer",
    ".text.arguments": "ConsistencyLensArguments",
    ".text.configuration": "ConsistencyLensConfig",
    ".text.modeling": "ConsistencyLens",
    ".text.parts.decoder_encoder": "LensDecoder LensEncoder",
    ".text.use.steering": "Steered",
    ".text.trainer": "ConsistencyLensTrainer",
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = [
    "ActivationCollator",
    "Activations",
    "AutoLens",
    "BadInput",
    "BlockArguments",
    "BlockExtraction",
    "Blocks",
    "ConsistencyLens",
    "ConsistencyLensArguments",
    "ConsistencyLensConfig",
    "ConsistencyLensTrainer",
    "Corpus",
    "CorpusArguments",
    "CorruptShard",
    "CrosslayerTranscoder",
    "CrosslayerTranscoderArguments",
    "CrosslayerTranscoderConfig",
    "CrosslayerTranscoderTrainer",
    "Decoding",
    "Edit",
    "ExtractArguments",
    "Extraction",
    "Fidelity",
    "FrozenLM",
    "FrozenModels",
    "Generated",
    "LatentWire",
    "LatentWireArguments",
    "LatentWireConfig",
    "LatentWireTrainer",
    "LensConfig",
    "LensDecoder",
    "LensEncoder",
    "LensModel",
    "LensTrainer",
    "LensTrainingArguments",
    "LensView",
    "PassageArguments",
    "Passages",
    "Prefix",
    "Provenance",
    "ProvenanceMismatch",
    "RatePoint",
    "Report",
    "Site",
    "Steered",
    "Wire",
    "evaluate_lens",
    "rate_points",
    "view_of",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return vars(import_module(_HOMES[name], __name__))[name]


def __dir__() -> list[str]:
    return __all__
