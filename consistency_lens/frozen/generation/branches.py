"""Many short ends behind the same texts: tokens that see chosen columns of what has been read once.

Shapes: B texts, S columns, Q tokens of all ends, V vocabulary.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from ...errors import BadInput
from ..hooks import reading, taking_turns
from ..sites import resolve_sites
from .stepping import growing_cache

if TYPE_CHECKING:
    from ..frozen_lm import FrozenLM


class Branches:
    """Texts, read once without gradient; `feed` goes on behind any of their columns.

    Args:
        lm: the model; one whose layers all keep every column they have read.
        ids: `[B, S]`, padded on the right.
    """

    def __init__(self, lm: FrozenLM, ids: torch.Tensor) -> None:
        cache = growing_cache(lm)
        if cache is None or any(type(layer) is not DynamicLayer for layer in cache.layers) or "flash" in lm.attention:
            fix = "Use another warm_start, such as onward; or attn_implementation=sdpa where that is what is missing."
            why = "words cannot be hidden from a single token: it keeps a state, a window, or has no mask of its own"
            raise BadInput("warm_start", "evidence", fix, why)
        self.lm, self.columns = lm, ids.shape[1]
        lm.require_length(self.columns)
        # Nobody reads above the last keys and values: where it is known what attention writes, the pass ends there.
        last = f"attn_out.{lm.num_layers - 1}"
        ends = reading(lm.model, resolve_sites(last, lm.num_layers), cut=True) if last in lm.sites else None
        with torch.no_grad(), ends or taking_turns(lm.model):
            lm.model.base_model(input_ids=ids.to(lm.device), past_key_values=cache, use_cache=True)
        self._cache: DynamicCache = cache

    def copy(self) -> Branches:
        """The same texts, to go on behind them in another way."""
        other = copy.copy(self)
        other._cache = copy.copy(self._cache)
        other._cache.layers = [copy.copy(layer) for layer in self._cache.layers]
        return other

    def feed(
        self, ids: torch.Tensor, positions: torch.Tensor, seen: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Logits `[B, Q, V]` behind some more tokens; later ones may see them.

        Args:
            ids: `[B, Q]`.
            positions: `[B, Q]`, where each token stands in its text.
            seen: `[B, Q, C]` bool, which columns each token sees: those of the texts, then all that were fed, then
                these; each has to see itself.
            bias: `[B, Q, C]`, added to the attention logits of all heads and layers: its gradient says how much a
                token rests on a column.
        """
        mask = torch.zeros(seen.shape, dtype=self.lm.dtype, device=self.lm.device)
        mask = mask.masked_fill(~seen.to(mask.device), torch.finfo(mask.dtype).min)
        if bias is not None:
            mask = mask + bias.to(mask)
        inputs = {"input_ids": ids.to(mask.device), "position_ids": positions.to(mask.device)}
        with taking_turns(self.lm.model):
            logits = self.lm.model(
                **inputs, attention_mask=mask.unsqueeze(1), past_key_values=self._cache, use_cache=True
            ).logits
        for layer in self._cache.layers:
            layer.keys, layer.values = layer.keys.detach(), layer.values.detach()
        return logits
