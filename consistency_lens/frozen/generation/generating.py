"""Generation under edits, token by token.

Shapes: B rows, S columns of `input_ids`, T generated tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedTokenizerBase

from ... import vocabulary
from ...errors import BadInput
from ..loaded_lm import LoadedLM
from ..sites import Edit
from .decoding import Decoding
from .passes import EditedPass
from .stepping import Growing, Step, growing_cache, roll_out

_LOOK_EVERY = 8  # steps, on a device that looking would wait for


@dataclass(frozen=True)
class Generated:
    """The tokens that a frozen model generated behind a batch.

    Args:
        ids: `[B, T]`, padding behind a row's end; T is the length of the longest row.
        mask: `[B, T]`, 1 for a row's own tokens, the one that ended it among them.
        logprobs: `[B, T]` in float32: log-probability of each token, as the model predicts it (at temperature 1, of
            all tokens); 0 in padding.
        ended: `[B]`, true where a stop token or a stop string ended the row.
        decoding: how the tokens were chosen, its `stop_ids` those that were in force.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    logprobs: torch.Tensor
    ended: torch.Tensor
    decoding: Decoding

    def texts(self, tokenizer: PreTrainedTokenizerBase) -> list[str]:
        """Each row for people: without what ended it, and without special tokens."""
        stop_ids, found = set(self.decoding.stop_ids or ()), []
        for ids, mask in zip(self.ids.tolist(), self.mask.tolist(), strict=True):
            own = [i for i, visible in zip(ids, mask, strict=True) if visible]
            if own and own[-1] in stop_ids:
                own.pop()
            text = tokenizer.decode(own, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            ends = [text.index(stop) for stop in self.decoding.stop_strings if stop in text]
            found.append(text[: min(ends, default=len(text))])
        return found


@torch.no_grad()
def generate(
    lm: LoadedLM,
    batch: Mapping[str, torch.Tensor],
    edits: Edit | Sequence[Edit],
    new_edits: Edit | Sequence[Edit] | None,
    decoding: Decoding,
    rows: Sequence[int] | None,
    use_cache: bool,
) -> Generated:
    """See `FrozenLM.generate`."""
    edits = lm.own_edits(edits)
    going_on = _going_on(edits) if new_edits is None else [_at_any_column(edit) for edit in lm.own_edits(new_edits)]
    first = EditedPass(lm, batch, edits)
    _require_room(first, decoding)
    numbers = [*range(len(first.mask))] if rows is None else [int(row) for row in rows]
    if len(numbers) != len(first.mask) or min(numbers, default=0) < 0:
        fix = f"Give one number from 0 on for each of the {len(first.mask)} rows."
        raise BadInput("rows", numbers, fix)
    decoding = replace(decoding, stop_ids=stop_ids_of(lm) if decoding.stop_ids is None else decoding.stop_ids)
    lm.require_vocabulary(max(decoding.stop_ids or (), default=0), "stop_ids")
    chosen = _Choices(lm, decoding, numbers)
    step = (_on_a_cache(first, going_on) if use_cache else None) or _by_whole_passes(first, going_on)
    ids = roll_out(step, decoding.max_new_tokens, chosen.choose, chosen.all_ended)
    mask, logprobs = (torch.stack(each, dim=1) for each in (chosen.own, chosen.logprobs))
    longest = int(mask.sum(1).max())
    return Generated(ids[:, :longest], mask[:, :longest], logprobs[:, :longest], chosen.ended, decoding)


def stop_ids_of(lm: LoadedLM) -> list[int]:
    """The tokens that end a text, as the tokenizer and the model's generation config name them."""
    config = lm.model.generation_config
    named = None if config is None else config.eos_token_id
    found = {lm.tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])} - {None}
    return sorted(i for i in found if i < lm.vocab_size)


def _at_any_column(edit: Edit) -> Edit:
    """An edit that can be made at any one column, as one at all columns; raise where it cannot be."""
    if edit.mode == "prepend":
        raise BadInput("mode", "prepend", "Give soft tokens in `edits`.", why="they stand before the first new token")
    if isinstance(edit.positions, torch.Tensor) or edit.positions not in (None, -1):
        fix = "Use None: it is made at each new token."
        raise BadInput("positions", edit.positions, fix, why="the column of an edit in new_edits")
    if isinstance(edit.value, torch.Tensor) and edit.value.dim() == 3 and edit.value.shape[1] != 1:
        raise BadInput(
            "value",
            list(edit.value.shape),
            "Give one vector for all columns, a function, or new_edits=[] where new tokens shall have no edit.",
            why="it is made at new tokens, too, and values for the prompt's columns do not cover those",
        )
    return replace(edit, positions=None)


def _going_on(edits: Sequence[Edit]) -> list[Edit]:
    return [_at_any_column(edit) for edit in edits if edit.positions is None]


def _require_room(first: EditedPass, decoding: Decoding) -> None:
    """Raise where there is nothing to go on from, or no room; before the first pass."""
    lm, mask = first.lm, first.inputs.get("attention_mask")
    if mask is not None and not bool(mask[:, -1].all()):
        raise BadInput("attention_mask", "0 in the last column", "Pad on the left: the next token has to follow it.")
    shortest = first.inputs["input_ids"].shape[1] if mask is None else int(mask.sum(1).min())
    for edit in first.prepends:
        if edit.positions == shortest:
            fix = f"Keep at least one of the shortest row's {shortest} tokens behind them."
            raise BadInput("positions", edit.positions, fix, why="no token follows the soft ones")
    # The last token is only chosen, never read.
    lm.require_length(first.mask.shape[1] + decoding.max_new_tokens - 1, "input_ids and max_new_tokens")


def _on_a_cache(first: EditedPass, going_on: Sequence[Edit]) -> Step | None:
    """Each token is read once. None where the model has no cache that grows."""
    lm, cache = first.lm, growing_cache(first.lm)
    if cache is None:
        return None
    rows = Growing(lm, cache, first.mask)
    writes = [lm.place(edit, first.inputs["input_ids"][:, -1:]) for edit in going_on]
    return lambda last: first.logits(keep=1, cache=cache)[:, -1] if last is None else rows.feed(last, writes)


def _by_whole_passes(first: EditedPass, going_on: Sequence[Edit]) -> Step:
    """Everything is read anew for each token."""
    read: list[torch.Tensor] = []

    def step(last: torch.Tensor | None) -> torch.Tensor:
        if last is None:
            return first.logits(keep=1)[:, -1]
        read.append(last)
        return first.followed_by(torch.stack(read, dim=1), going_on).logits(keep=1)[:, -1]

    return step


class _Choices:
    """The tokens chosen so far, and which rows have ended."""

    def __init__(self, lm: LoadedLM, decoding: Decoding, rows: Sequence[int]) -> None:
        self.decoding, self.rows, self.tokenizer = decoding, rows, lm.tokenizer
        self.stops = torch.tensor(list(decoding.stop_ids or ()), dtype=torch.long, device=lm.device)
        pad = lm.tokenizer.pad_token_id
        # Some tokenizers have a padding token that was added behind the model's vocabulary; what is padded is read.
        known = pad is not None and pad < lm.vocab_size
        self.pad = pad if known else next(iter(decoding.stop_ids or ()), 0)
        self.ended = torch.zeros(len(rows), dtype=torch.bool, device=lm.device)
        self.ids: list[torch.Tensor] = []
        self.own: list[torch.Tensor] = []
        self.logprobs: list[torch.Tensor] = []

    def choose(self, step: int, logits: torch.Tensor) -> torch.Tensor:
        """Token ids `[B]`; a row that has ended is padded."""
        logits = logits.float()
        allowed = logits
        if step < self.decoding.min_new_tokens:
            allowed = logits.index_fill(-1, self.stops, float("-inf"))
        going = ~self.ended
        ids = torch.where(going, self.decoding.choose(step, allowed, self.rows), self.pad)
        self.ids.append(ids)
        self.own.append(going.long())
        self.logprobs.append(torch.where(going, vocabulary.log_probability(logits, ids), 0.0))
        if step + 1 >= self.decoding.min_new_tokens:
            self.ended = self.ended | torch.isin(ids, self.stops) & going
            if self.decoding.stop_strings:
                self.ended = self.ended | self._complete()
        return ids

    def all_ended(self, step: int) -> bool:
        looking = self.ended.device.type == "cpu" or (step + 1) % _LOOK_EVERY == 0
        return looking and bool(self.ended.all())

    def _complete(self) -> torch.Tensor:
        """`[B]`, true where a row that goes on has a stop string in it."""
        rows = torch.stack(self.ids, dim=1).tolist()
        texts = [
            "" if done else self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
            for ids, done in zip(rows, self.ended.tolist(), strict=True)
        ]
        found = [any(stop in text for stop in self.decoding.stop_strings) for text in texts]
        return torch.tensor(found, device=self.ended.device)
