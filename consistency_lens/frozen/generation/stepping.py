"""A token at a time: the loop, and rows that grow on a cache.

Shapes: B rows, S columns so far, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import signature

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, LinearAttentionCacheLayerMixin

from ..hooks import Write, editing
from ..loaded_lm import LoadedLM
from ..soft_tokens import positions_from

# Takes the last choice (ids [B]; None at first), gives the logits [B, V] of the next token.
Step = Callable[[torch.Tensor | None], torch.Tensor]


def roll_out(
    step: Step,
    length: int,
    choose: Callable[[int, torch.Tensor], torch.Tensor],
    stop: Callable[[int], bool] | None = None,
) -> torch.Tensor:
    """Token ids `[B, T]`, each chosen from the logits that follow the one before it.

    Args:
        step: gives the next logits.
        length: T, at most.
        choose: takes the number of the step and its logits, gives ids `[B]`.
        stop: takes the number of a step; where it gives true, that step was the last one.
    """
    ids: list[torch.Tensor] = []
    for t in range(length):
        ids.append(choose(t, step(ids[-1] if ids else None)))
        if stop is not None and stop(t):
            break
    return torch.stack(ids, dim=1)


def growing_cache(lm: LoadedLM) -> DynamicCache | None:
    """An empty cache whose layers grow by concatenation; None where the model keeps a state that each token changes in
    place, as state-space models do."""
    cache = DynamicCache(config=lm.config)
    # Falcon-H1 keeps keys and values, and a state beside them.
    grows = (
        isinstance(layer, DynamicLayer) and not isinstance(layer, LinearAttentionCacheLayerMixin)
        for layer in cache.layers
    )
    takes_cache = "past_key_values" in signature(lm.model.forward).parameters
    return cache if takes_cache and all(grows) else None


class Growing:
    """Rows whose columns so far are in a cache, and that are fed a token at a time.

    Args:
        lm: the model.
        cache: of these columns; it grows.
        mask: `[B, S]` of these columns.
    """

    def __init__(self, lm: LoadedLM, cache: DynamicCache, mask: torch.Tensor) -> None:
        self.lm, self.cache, self.mask = lm, cache, mask

    @torch.no_grad()
    def feed(self, ids: torch.Tensor, writes: Sequence[Write] = ()) -> torch.Tensor:
        """Logits `[B, V]` behind one more token `[B]` of each row, with edits at its column."""
        self.mask = torch.nn.functional.pad(self.mask, (0, 1), value=1)
        self.lm.require_length(self.mask.shape[1], "input_ids and what is said after them")
        inputs = {
            "input_ids": ids.unsqueeze(1),
            "attention_mask": self.mask,
            "position_ids": positions_from(self.mask)[:, -1:],
        }
        with editing(self.lm.model, writes):
            return self.lm.model(**inputs, past_key_values=self.cache, use_cache=True).logits[:, -1]
