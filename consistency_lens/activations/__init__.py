"""From text to Arrow and back: extraction, storage, loading, collation."""

from .corpus import Corpus, CorpusArguments
from .dataset import ActivationCollator, Activations
from .extract import ExtractArguments, Extraction, rules_of
from .given import survey
from .storage import CorruptShard

__all__ = [
    "ActivationCollator",
    "Activations",
    "Corpus",
    "CorpusArguments",
    "CorruptShard",
    "ExtractArguments",
    "Extraction",
    "rules_of",
    "survey",
]
