"""The outside world: the only room that knows the insides of a frozen LLM."""

from .decoding import Decoding
from .frozen_lm import FrozenLM
from .generating import Generated
from .hooks import editing, reading
from .models import FrozenModels
from .prefix import Prefix
from .provenance import Provenance, ProvenanceMismatch
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
