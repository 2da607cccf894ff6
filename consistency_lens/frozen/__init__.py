"""The outside world: the only room that knows the insides of a frozen LLM."""

from .frozen_lm import FrozenLM
from .generation.decoding import Decoding
from .generation.generating import Generated
from .hooks import editing, reading
from .loading.provenance import Provenance, ProvenanceMismatch
from .models import FrozenModels
from .prefix import Prefix
from .sites import Edit, Site

__all__ = [
    "Decoding",
    "Edit",
    "FrozenLM",
    "FrozenModels",
    "Generated",
    "Prefix",
    "Provenance",
    "ProvenanceMismatch",
    "Site",
    "editing",
    "reading",
]
