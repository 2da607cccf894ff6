"""Consistency Lens: read an LLM's mind in words, and let the LLM itself judge them.

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
    from .text.steering import Steered
    from .text.trainer import ConsistencyLensTrainer

_HOMES = {
    "ActivationCollator": ".activations",
    "Activations": ".activations",
    "AutoLens": ".auto",
    "BadInput": ".errors",
    "BlockArguments": ".activations.blocks",
    "BlockExtraction": ".activations.blocks",
    "Blocks": ".activations.blocks",
    "ConsistencyLens": ".text.modeling",
    "ConsistencyLensArguments": ".text.arguments",
    "ConsistencyLensConfig": ".text.configuration",
    "ConsistencyLensTrainer": ".text.trainer",
    "Corpus": ".activations",
    "CorpusArguments": ".activations",
    "CorruptShard": ".activations",
    "CrosslayerTranscoder": ".sparse.modeling",
    "CrosslayerTranscoderArguments": ".sparse.arguments",
    "CrosslayerTranscoderConfig": ".sparse.configuration",
    "CrosslayerTranscoderTrainer": ".sparse.trainer",
    "Decoding": ".frozen",
    "Edit": ".frozen",
    "ExtractArguments": ".activations",
    "Extraction": ".activations",
    "Fidelity": ".evaluation.metric",
    "FrozenLM": ".frozen",
    "FrozenModels": ".frozen",
    "Generated": ".frozen",
    "LatentWire": ".soft.modeling",
    "LatentWireArguments": ".soft.arguments",
    "LatentWireConfig": ".soft.configuration",
    "LatentWireTrainer": ".soft.trainer",
    "LensConfig": ".base.configuration",
    "LensDecoder": ".text.parts.decoder_encoder",
    "LensEncoder": ".text.parts.decoder_encoder",
    "LensModel": ".base.modeling",
    "LensTrainer": ".base.trainer",
    "LensTrainingArguments": ".base.arguments",
    "LensView": ".base.viewing",
    "PassageArguments": ".activations.passages",
    "Passages": ".activations.passages",
    "Prefix": ".frozen",
    "Provenance": ".frozen",
    "ProvenanceMismatch": ".frozen",
    "Report": ".evaluation",
    "Site": ".frozen",
    "Steered": ".text.steering",
    "Wire": ".soft.bytes.wire",
    "evaluate_lens": ".auto",
    "view_of": ".auto",
}

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
    "Report",
    "Site",
    "Steered",
    "Wire",
    "evaluate_lens",
    "view_of",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return vars(import_module(_HOMES[name], __name__))[name]


def __dir__() -> list[str]:
    return __all__
