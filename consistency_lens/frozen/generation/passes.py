"""`EditedPass`: one pass over all columns of a batch, with edits in place.

Shapes: B rows, S columns of `input_ids`, t columns behind them, N soft tokens, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from transformers import DynamicCache

from ...errors import BadInput
from ..columns import last_columns
from ..hooks import Write, editing
from ..loaded_lm import LoadedLM
from ..sites import Edit
from ..soft_tokens import SoftTokens, positions_from


class EditedPass:
    """What one pass takes in, and what it writes.

    Args:
        lm: the model.
        batch: `input_ids [B, S]` and, where rows are padded, `attention_mask [B, S]`.
        edits: what to write.
    """

    def __init__(self, lm: LoadedLM, batch: Mapping[str, torch.Tensor], edits: Edit | Sequence[Edit]) -> None:
        self.lm, self.inputs, edits = lm, lm.inputs(batch), lm.own_edits(edits)
        self.prepends = [edit for edit in edits if edit.mode == "prepend"]
        self.soft = SoftTokens.gather(self.prepends, self.inputs, lm.hidden_size)
        self.writes: list[Write] = []  # with columns of `input_ids`
        for edit in edits:
            if edit.mode != "prepend":
                write = lm.place(edit, self.inputs["input_ids"], self.inputs.get("attention_mask"))
                if self.soft and any(site.stage == "embed" and site != write.site for site in write.reads):
                    fix = "Read resid_pre.0 instead."
                    raise BadInput("reads", "embed", fix, why="soft tokens come in behind the embedding")
                self.writes.append(write)

    @property
    def mask(self) -> torch.Tensor:
        """`[B, N + S]`, of the columns that the pass runs over."""
        if self.soft is not None:
            return self.soft.mask
        ids = self.inputs["input_ids"]
        return self.inputs["attention_mask"] if "attention_mask" in self.inputs else torch.ones_like(ids)

    def logits(self, keep: int | None = None, cache: DynamicCache | None = None) -> torch.Tensor:
        """`[B, S, V]`, or of the last columns `[B, keep, V]`; a cache that is given keeps keys and values."""
        lm, soft = self.lm, self.soft
        caching = {"use_cache": False} if cache is None else {"use_cache": True, "past_key_values": cache}
        with editing(lm.model, [self._moved(write) for write in self.writes]):
            if soft is None:
                width = self.inputs["input_ids"].shape[1]
                kept = last_columns(min(keep, width), width, lm.device) if keep else 0
                logits = lm.model(**self.inputs, **caching, logits_to_keep=kept).logits
                return logits[:, -(keep or 0) :]  # Whisper and TrOCR give all of them
            embedded = soft.splice(lm.model.get_input_embeddings()(self.inputs["input_ids"]))
            lm.require_length(embedded["inputs_embeds"].shape[1], "soft tokens and input_ids")
            columns = soft.own_columns[:, -(keep or 0) :]
            first = int(columns.min()) if keep else 0
            width = soft.order.shape[1]
            kept = last_columns(width - first, width, lm.device)
            logits = lm.model(**embedded, **caching, logits_to_keep=kept).logits[:, first - width :]
            return logits.gather(1, (columns - first).unsqueeze(-1).expand(-1, -1, logits.shape[-1]))

    def followed_by(self, ids: torch.Tensor, edits: Sequence[Edit]) -> EditedPass:
        """The same pass with more tokens `[B, t]` behind it: its own edits stay where they are, and `edits` at all
        columns are made at all of the new ones."""
        rows, width = self.inputs["input_ids"].shape
        own = torch.arange(width + ids.shape[1], device=self.lm.device).expand(rows, -1)
        mask = self.inputs.get("attention_mask", torch.ones_like(self.inputs["input_ids"]))
        mask = torch.nn.functional.pad(mask, (0, ids.shape[1]), value=1)
        together = torch.cat([self.inputs["input_ids"], ids], dim=1)
        longer = copy.copy(self)
        longer.inputs = {"input_ids": together, "attention_mask": mask, "position_ids": positions_from(mask)}
        longer.soft = SoftTokens.gather(self.prepends, longer.inputs, self.lm.hidden_size)
        longer.writes = [
            write if write.columns is not None else write._replace(columns=own[:, :width]) for write in self.writes
        ]
        behind = own[:, width:]
        longer.writes += [self.lm.place(replace(edit, positions=behind), together, mask) for edit in edits]
        return longer

    def _moved(self, write: Write) -> Write:
        """With columns of the sequence that soft tokens are in; at the embedding, they are not in it yet."""
        if self.soft is None or write.site.stage == "embed":
            return write
        return write._replace(columns=self.soft.moved(write.columns))
