"""The cheap swap: the context runs once into a KV cache, every distribution after it is a single-token pass.

Shapes: B rows, S columns of `input_ids`, k horizon, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from transformers import DynamicCache

from ..errors import BadInput
from .hooks import editing, reading, taking_turns
from .sites import Edit, Site, resolve_sites
from .soft_tokens import positions_from

if TYPE_CHECKING:
    from .frozen_lm import FrozenLM


class Prefix:
    """All columns of a batch but the last, run once without gradient.

    `logits()` is the clean distribution at the last column P, `logits(edits)` the edited one. Only the edited pass
    carries a gradient, and each is a pass over one column (`1 + horizon` columns with a horizon).
    """

    def __init__(self, lm: FrozenLM, batch: Mapping[str, torch.Tensor]) -> None:
        self.lm = lm
        self.input_ids = lm.input_ids(batch)
        mask = batch.get("attention_mask")
        self.mask = torch.ones_like(self.input_ids) if mask is None else mask.to(lm.device)
        if not bool(self.mask[:, -1].all()):
            raise BadInput("attention_mask", "0 in the last column", "Pad on the left: P has to be the last column.")
        self.continuation_ids = batch.get("continuation_ids")
        self.continuation_mask = batch.get("continuation_mask")
        self._cache = DynamicCache(config=lm.config)
        if self.input_ids.shape[1] > 1:
            context = lm._inputs({"input_ids": self.input_ids[:, :-1], "attention_mask": self.mask[:, :-1]})
            with torch.no_grad(), taking_turns(lm.model), lm._noticing_hooks():
                # The base model: no logits are wanted here.
                lm.model.base_model(**context, past_key_values=self._cache, use_cache=True)

    def logits(self, edits: Edit | Sequence[Edit] = (), horizon: int = 0) -> torch.Tensor:
        """Logits at P and at the next `horizon` positions of the true continuation: `[B, 1 + horizon, V]`.

        Args:
            edits: `replace` or `add` at P, the last column of `input_ids`.
            horizon: how many true next tokens to go on with. Where a row's continuation is shorter
                (`continuation_mask`), its last columns mean nothing.
        """
        if horizon < 0:
            raise BadInput("horizon", horizon, "Give 0 for P alone, or how many true next tokens to go on with.")
        inputs = self._inputs(horizon)
        writes = [self.lm.place(self._at_last(edit), inputs["input_ids"]) for edit in self.lm.own_edits(edits)]
        with self.lm._noticing_hooks(), editing(self.lm.model, writes):
            return self.lm.model(**inputs, past_key_values=self._fresh_cache(), use_cache=True).logits

    @torch.no_grad()
    def read(self, sites: str | Site | Sequence[str | Site]) -> dict[str, torch.Tensor]:
        """Activations at P, `[B, d]` each, exactly as the clean pass of this prefix computes them."""
        wanted = resolve_sites(sites, self.lm.num_layers)
        with self.lm._noticing_hooks(), reading(self.lm.model, wanted, cut=True) as found:
            self.lm.model(**self._inputs(0), past_key_values=self._fresh_cache(), use_cache=True)
        return {name: hidden[:, 0] for name, hidden in found.items()}

    def repeat(self, times: int) -> Prefix:
        """The same contexts with each row `times` in a row: several codes per activation, one prefix."""
        more = copy.copy(self)
        more._cache = self._fresh_cache()
        more._cache.batch_repeat_interleave(times)
        more.input_ids, more.mask = (x.repeat_interleave(times, 0) for x in (self.input_ids, self.mask))
        if self.continuation_ids is not None:
            more.continuation_ids = self.continuation_ids.repeat_interleave(times, 0)
        if self.continuation_mask is not None:
            more.continuation_mask = self.continuation_mask.repeat_interleave(times, 0)
        return more

    def _inputs(self, horizon: int) -> dict[str, torch.Tensor]:
        ids, mask = self.input_ids[:, -1:], self.mask
        if horizon:
            if self.continuation_ids is None or self.continuation_ids.shape[1] < horizon:
                held = 0 if self.continuation_ids is None else self.continuation_ids.shape[1]
                raise BadInput(
                    "horizon", horizon, "Extract with a larger continuation_length.", why=f"rows hold {held} tokens"
                )
            self.lm.require_length(mask.shape[1] + horizon, "input_ids and horizon")
            more = self.continuation_ids[:, :horizon].to(ids.device)
            more_mask = torch.ones_like(more)
            if self.continuation_mask is not None:
                more_mask = self.continuation_mask[:, :horizon].to(mask)
            ids, mask = torch.cat([ids, more], dim=1), torch.cat([mask, more_mask], dim=1)
        positions = positions_from(mask)[:, -ids.shape[1] :]
        return {"input_ids": ids, "attention_mask": mask, "position_ids": positions}

    def _at_last(self, edit: Edit) -> Edit:
        """The edit with its columns counted within the pass over P and the horizon, where P is column 0."""
        at_p = isinstance(edit.positions, int) and edit.positions in (-1, self.input_ids.shape[1] - 1)
        if edit.mode == "prepend" or not at_p:
            raise BadInput(
                "positions" if edit.mode != "prepend" else "mode",
                edit.positions if edit.mode != "prepend" else edit.mode,
                "Use FrozenLM.logits for edits elsewhere than at the last column: the columns before it have run.",
            )
        return Edit(edit.site, edit.value, 0, edit.mode, edit.lm)

    def _fresh_cache(self) -> DynamicCache:
        """A cache that can grow without touching this one: layers grow by concatenation, never in place."""
        cache = copy.copy(self._cache)
        cache.layers = [copy.copy(layer) for layer in self._cache.layers]
        return cache
