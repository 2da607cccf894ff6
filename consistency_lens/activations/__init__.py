"""From text to Arrow and back: extraction, storage, loading, collation."""

from .contexts.dataset import ActivationCollator, Activations
from .contexts.extract import ExtractArguments, Extraction
from .contexts.given import survey
from .corpus import Corpus, CorpusArguments
from .storage import CorruptShard

__all__ = [
    "ActivationCollator",
    "Activations",
    "Corpus",
    "CorpusArguments",
    "CorruptShard",
    "ExtractArguments",
    "Extraction",
    "survey",
]
