"""The outside world: the only room that knows the insides of a frozen LLM."""

from .frozen_lm import FrozenLM
from .hooks import editing, reading
from .models import FrozenModels
from .prefix import Prefix
from .provenance import Provenance, ProvenanceMismatch
from .sites import Edit, Site

__all__ = [
    "Edit",
    "FrozenLM",
    "FrozenModels",
    "Prefix",
    "Provenance",
    "ProvenanceMismatch",
    "Site",
    "editing",
    "reading",
]
