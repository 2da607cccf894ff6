"""Texts, token by token: how the lens explains each activation, and what the model predicts from the reconstruction.

Shapes: S tokens of a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..errors import BadInput
from ..frozen import Decoding, FrozenLM
from ..frozen.texts import token_ids
from .comparing import apply_lens
from .comparing.rows import rows_of
from .explanations import Explanations
from .lens import Batch, Code, Lens

Positions = int | slice | Sequence[int] | None

ROWS = 32


class ExplainingLens(Lens):
    """A lens that explains texts, token by token."""

    def explain(
        self,
        what: Any,
        positions: Positions = None,
        *,
        top: int = 5,
        batch_size: int = ROWS,
        generate: bool | int = False,
        temperature: float = 0.0,
    ) -> Any:
        """Rows for people: `Explanations` for a text, a list of them for a list of texts, rows for codes.

        Args:
            what: codes; a text that the model reads first, as a string, token ids, a chat (its messages, put together
                by the tokenizer's chat template) or what a tokenizer returns; or a list of texts.
            positions: tokens of each text to explain: an index, a slice or a list, negative ones counted from the end.
                Default all but the first, at which the model has read nothing.
            top: how many of the likeliest next tokens to give.
            batch_size: tokens explained in one pass, which goes on from one text to the next.
            generate: the model goes on behind each text, for at most 32 or so many tokens, and what it writes is
                explained; by default all of it.
            temperature: at which it writes; 0 takes the likeliest tokens.
        """
        if isinstance(what, Code):
            return self.describe(what)
        if batch_size < 1:
            raise BadInput("batch_size", batch_size, "Use at least 1.")
        ids, single = token_ids(self.reader, what)
        strings = [what] if isinstance(what, str) else what
        as_text = isinstance(strings, list | tuple) and all(isinstance(each, str) for each in strings)
        if not as_text and self.models is not None and len(self.models) > 1:
            fix = "Give strings: each of its models has a tokenizer of its own."
            raise BadInput("text", type(what).__name__, fix, why="the lens reads with several models")
        texts: Sequence[str | Tensor] = strings if as_text else ids
        wanted: list[Positions] = [positions] * len(ids)
        if generate is not False:
            length = Decoding.max_new_tokens if generate is True else generate
            decoding = Decoding(length, do_sample=temperature != 0, temperature=temperature or 1.0)
            texts = [written_behind(self.reader, text, decoding, row) for row, text in enumerate(ids)]
            wanted = [slice(len(text), None) if positions is None else positions for text in ids]
        rows = self.explain_each(texts, wanted, top, batch_size)
        return rows[0] if single else rows

    @torch.no_grad()
    def explain_each(
        self,
        texts: Sequence[str | Tensor],
        positions: Sequence[Positions],
        top: int = 5,
        batch_size: int = ROWS,
    ) -> list[Explanations]:
        """The same of texts that are given as strings or as token ids, with the positions of each. One row per token:
        the explanation of its activation, and what the model predicts with the reconstruction in its place."""
        read = [read_tokens(self, text)[1][0] for text in texts]
        wanted = [wanted_positions(own, len(ids)) for own, ids in zip(positions, read, strict=True)]
        every = [(text, position) for text, own in enumerate(wanted) for position in own]
        rows: list[list[dict[str, Any]]] = [[] for _ in texts]
        for first in range(0, len(every), batch_size):
            part = every[first : first + batch_size]
            ends: dict[int, list[int]] = {}
            for text, position in part:
                ends.setdefault(text, []).append(position)
            batch = self.contexts_of([texts[text] for text in ends], list(ends.values()))
            applied = apply_lens(self, self.models or self.reader, batch)
            for (text, position), row in zip(part, rows_of(self, self.reader, applied, batch, top), strict=True):
                token = self.reader.tokenizer.decode(read[text][position])
                rows[text].append({"position": position, "token": token, **row})
        return [Explanations(own, tokens_of(self.reader, ids)) for own, ids in zip(rows, read, strict=True)]

    def contexts_of(self, texts: Sequence[str | Tensor], ends: Sequence[Sequence[int]]) -> Batch:
        """A batch of each text up to each of some of its tokens, as the family's collator would make it: padded on the
        left, so that the last column stands for that token; and what the lens reads there, of all texts in one pass.

        Args:
            texts: what the model reads, as strings or as token ids.
            ends: tokens of each.
        """
        heads = [read_tokens(self, text)[1][0, : max(own) + 1] for text, own in zip(texts, ends, strict=True)]
        padded = pad_sequence(heads, batch_first=True)  # on the right, where no token of a text looks
        sites = self.config.sites or []
        read = self.reader.read({"input_ids": padded}, sites)
        rows = [(text, end) for text, own in enumerate(ends) for end in own]
        text, end = torch.tensor(rows, device=padded.device).unbind(1)
        activations = {site: read[site][text.to(read[site].device), end.to(read[site].device)] for site in sites}
        width = padded.shape[1]
        columns = torch.arange(width, device=padded.device) - (width - 1 - end[:, None])
        contexts = {"input_ids": padded[text[:, None], columns.clamp_min(0)], "attention_mask": (columns >= 0).long()}
        return {**contexts, "activations": activations}


def written_behind(frozen: FrozenLM, ids: Tensor, decoding: Decoding, row: int) -> Tensor:
    """A text with what the model goes on with, without the token that ended it: no text follows there."""
    made = frozen.generate(
        {"input_ids": ids[None], "attention_mask": torch.ones_like(ids)[None]}, decoding=decoding, rows=[row]
    )
    own = made.ids[0][made.mask[0].bool()]
    return torch.cat([ids, own[:-1] if bool(made.ended[0]) else own])


def tokens_of(frozen: FrozenLM, ids: Tensor) -> list[str]:
    """Each token as a person reads it."""
    return [frozen.tokenizer.decode(token) for token in ids]


def wanted_positions(positions: Positions, length: int) -> list[int]:
    """Positions counted from the beginning; by default all but the first, at which the model has read nothing."""
    if positions is None:
        return list(range(1, length))
    if isinstance(positions, slice):
        return list(range(length))[positions]
    named = [positions] if isinstance(positions, int) else list(positions)
    if bad := [p for p in named if not -length <= p < length]:
        fix = f"The text has {length} tokens: use 0 to {length - 1}, or negative ones."
        raise BadInput("positions", bad[0], fix)
    return [p + length if p < 0 else p for p in named]


def read_tokens(lens: Lens, text: str | Tensor) -> tuple[FrozenLM, Tensor]:
    """The model, and the tokens `[1, S]` that it reads of a text; raise where it cannot."""
    frozen = lens.reader
    (ids,) = token_ids(frozen, text)[0]
    if len(ids) < 2:
        raise BadInput("text", text, "Give at least one word.")
    return frozen, ids[None]
