"""The cheap swap: the context runs once into a KV cache, every distribution after it is a single-token pass.

Shapes: B rows, S columns of `input_ids`, k horizon, T tokens said after P, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from ..errors import BadInput
from .generation.stepping import Growing, Step, growing_cache, roll_out
from .hooks import editing, reading, taking_turns
from .loaded_lm import LoadedLM
from .sites import Edit, Site, resolve_sites
from .soft_tokens import positions_from

WHOLE_PASSES = "Read and edit it by whole passes (FrozenLM.read, FrozenLM.logits)."
IN_PLACE = "it keeps a state that each token changes in place, which the single-token swap cannot start from"


class Prefix:
    """All columns of a batch but the last, run once without gradient.

    `logits()` is the clean distribution at the last column P, `logits(edits)` the edited one. Only the edited pass
    carries a gradient, and each is a pass over one column (`1 + horizon` columns with a horizon).
    """

    def __init__(self, lm: LoadedLM, batch: Mapping[str, torch.Tensor]) -> None:
        self.lm = lm
        self.input_ids = lm.input_ids(batch)
        mask = batch.get("attention_mask")
        self.mask = torch.ones_like(self.input_ids) if mask is None else mask.to(lm.device)
        # Only where looking costs no wait for the device.
        if mask is not None and mask.device.type == "cpu" and not bool(mask[:, -1].all()):
            raise BadInput("attention_mask", "0 in the last column", "Pad on the left: P has to be the last column.")
        self.continuation_ids = batch.get("continuation_ids")
        self.continuation_mask = batch.get("continuation_mask")
        cache = growing_cache(lm)
        if cache is None:
            raise BadInput("model_type", lm.model.config.model_type, WHOLE_PASSES, why=IN_PLACE)
        self._cache = cache
        self._run(self.input_ids.shape[1] - 1)

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
        with editing(self.lm.model, writes):
            return self.lm.model(**inputs, past_key_values=self._fresh_cache(), use_cache=True).logits

    @torch.no_grad()
    def read(self, sites: str | Site | Sequence[str | Site], horizon: int = 0) -> dict[str, torch.Tensor]:
        """Activations at P, `[B, d]` each, exactly as the clean pass of this prefix computes them.

        A pass over more columns may differ in the last bit: `horizon` is that of the pass they are compared with.
        """
        wanted = resolve_sites(sites, self.lm.num_layers)
        with reading(self.lm.model, wanted, cut=True) as found:
            self.lm.model(**self._inputs(horizon), past_key_values=self._fresh_cache(), use_cache=True)
        return {name: hidden[:, 0] for name, hidden in found.items()}

    def repeat(self, times: int) -> Prefix:
        """The same contexts with each row `times` in a row: several codes per activation, one prefix."""
        return self.take(torch.arange(len(self.input_ids)).repeat_interleave(times))

    def take(self, rows: torch.Tensor) -> Prefix:
        """The contexts of these rows, in this order; a row may come several times or not at all."""
        rows = rows.to(self.input_ids.device)
        more = copy.copy(self)
        more._cache = self._fresh_cache()
        more._cache.batch_select_indices(rows)
        more.input_ids, more.mask = self.input_ids[rows], self.mask[rows]
        if self.continuation_ids is not None:
            more.continuation_ids = self.continuation_ids[rows.to(self.continuation_ids.device)]
        if self.continuation_mask is not None:
            more.continuation_mask = self.continuation_mask[rows.to(self.continuation_mask.device)]
        return more

    def extended(self, ids: torch.Tensor) -> Prefix:
        """The contexts with more tokens `[B, K]` behind them, of which the last is the new P; only they are run."""
        more = copy.copy(self)
        more._cache = self._fresh_cache()
        more.input_ids = torch.cat([self.input_ids, ids.to(self.input_ids)], dim=1)
        more.mask = torch.nn.functional.pad(self.mask, (0, ids.shape[1]), value=1)
        more.continuation_ids = more.continuation_mask = None
        self.lm.require_length(more.mask.shape[1])
        more._run(ids.shape[1])
        return more

    def shortened(self, columns: int) -> Prefix:
        """The same contexts without their last columns, up to an earlier P.

        What was run is used again; a layer with a window has let go of what an earlier P would see, and runs again.
        """
        if not 0 <= columns < self.input_ids.shape[1]:
            fix = f"Take 0 to {self.input_ids.shape[1] - 1}: one column has to stay."
            raise BadInput("columns", columns, fix)
        less = copy.copy(self)
        less.continuation_ids = less.continuation_mask = None
        if not columns:
            return less
        less.input_ids, less.mask = self.input_ids[:, :-columns], self.mask[:, :-columns].clone()
        less.mask[:, -1] = 1  # a row of which nothing is left has to read something
        if any(type(layer) is not DynamicLayer for layer in self._cache.layers):
            return type(self)(self.lm, {"input_ids": less.input_ids, "attention_mask": less.mask})
        less._cache = self._fresh_cache()
        for layer in less._cache.layers:
            layer.keys, layer.values = layer.keys[..., :-columns, :], layer.values[..., :-columns, :]
        return less

    def followed_by(self, ids: torch.Tensor, mask: torch.Tensor | None = None) -> Prefix:
        """The same contexts with other tokens `[B, k]` after P in place of the true continuation."""
        other = copy.copy(self)
        other.continuation_ids, other.continuation_mask = ids, mask
        return other

    def steps(self, edits: Edit | Sequence[Edit] = ()) -> Step:
        """A function from the last choice (ids `[B]`; None at first) to the logits `[B, V]` of the next token.

        Each call is one single-token pass, without gradient, on a cache of its own: this prefix stays as it is.

        Args:
            edits: as for `logits`. They are made at P, in the first pass; the later ones find P as it was then.
        """
        rows = Growing(self.lm, self._fresh_cache(), self.mask[:, :-1])
        at_p = [self.lm.place(self._at_last(edit), self.input_ids[:, -1:]) for edit in self.lm.own_edits(edits)]
        return lambda last: rows.feed(self.input_ids[:, -1], at_p) if last is None else rows.feed(last)

    def continue_greedily(self, length: int, edits: Edit | Sequence[Edit] = ()) -> tuple[torch.Tensor, torch.Tensor]:
        """What the model itself says after P, and how sure it was.

        Args:
            length: how many tokens; nothing ends it early, special tokens included.
            edits: made at P before it speaks, as for `logits`.

        Returns:
            The likeliest next token of each step, `[B, T]`, and its probability, `[B, T]` in float32.
        """
        if length < 1:
            raise BadInput("length", length, "Let the model say at least one token.")
        # Before the first pass, not in the middle: the last token is only chosen, never read.
        self.lm.require_length(self.mask.shape[1] + length - 1, "input_ids and length")
        sure: list[torch.Tensor] = []

        def choose(step: int, logits: torch.Tensor) -> torch.Tensor:
            best, choice = logits.float().max(-1)
            sure.append((best - logits.float().logsumexp(-1)).exp())
            return choice

        ids = roll_out(self.steps(edits), length, choose)
        return ids, torch.stack(sure, dim=1)

    @torch.no_grad()
    def _run(self, columns: int) -> None:
        """Let the last so many columns before P grow the cache."""
        if not columns:
            return
        mask = self.mask[:, :-1]
        inputs = {
            "input_ids": self.input_ids[:, -1 - columns : -1],
            "attention_mask": mask,
            "position_ids": positions_from(mask)[:, -columns:],
        }
        with taking_turns(self.lm.model):
            # The base model: no logits are wanted here.
            self.lm.model.base_model(**inputs, past_key_values=self._cache, use_cache=True)

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
        return replace(edit, positions=0)

    def _fresh_cache(self) -> DynamicCache:
        """A cache that can grow without touching this one: layers grow by concatenation, never in place."""
        cache = copy.copy(self._cache)
        cache.layers = [copy.copy(layer) for layer in self._cache.layers]
        return cache
