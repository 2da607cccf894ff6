"""`Foreign`: a lens that another project has saved, found and not yet opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..frozen import FrozenLM


@dataclass(frozen=True)
class Foreign:
    """
    Args:
        model_id: the model that it was made for; '' where it does not say.
        open: makes a lens of it, with that model.
    """

    model_id: str
    open: Callable[[FrozenLM], Any]
