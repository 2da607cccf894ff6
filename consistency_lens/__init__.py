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
    from .errors import BadInput
    from .frozen import Edit, FrozenLM, Prefix, Provenance, ProvenanceMismatch, Site

_HOMES = {
    "ActivationCollator": ".activations",
    "Activations": ".activations",
    "BadInput": ".errors",
    "Corpus": ".activations",
    "CorpusArguments": ".activations",
    "CorruptShard": ".activations",
    "Edit": ".frozen",
    "ExtractArguments": ".activations",
    "Extraction": ".activations",
    "FrozenLM": ".frozen",
    "Prefix": ".frozen",
    "Provenance": ".frozen",
    "ProvenanceMismatch": ".frozen",
    "Site": ".frozen",
}

__all__ = [
    "ActivationCollator",
    "Activations",
    "BadInput",
    "Corpus",
    "CorpusArguments",
    "CorruptShard",
    "Edit",
    "ExtractArguments",
    "Extraction",
    "FrozenLM",
    "Prefix",
    "Provenance",
    "ProvenanceMismatch",
    "Site",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return vars(import_module(_HOMES[name], __name__))[name]


def __dir__() -> list[str]:
    return __all__
