"""Texts, token by token: how the lens explains each activation, and what the model predicts from the reconstruction.

Shapes: S tokens of a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..errors import BadInput
from ..frozen import Decoding, FrozenLM
from ..frozen.texts import token_ids
from .comparing import apply_lens
from .comparing.rows import rows_of
from .explanations import Explanations

if TYPE_CHECKING:
    from .modeling import LensModel

Positions = int | slice | Sequence[int] | None

ROWS = 32


def explain_texts(
    lens: LensModel, given: Any, positions: Positions, top: int, batch_size: int, decoding: Decoding | None = None
) -> Any:
    """`Explanations` of a text, or a list of them for several; with a `decoding`, of what the model goes on with."""
    if batch_size < 1:
        raise BadInput("batch_size", batch_size, "Use at least 1.")
    ids, single = token_ids(model_of(lens), given)
    strings = [given] if isinstance(given, str) else given
    as_text = isinstance(strings, list | tuple) and all(isinstance(each, str) for each in strings)
    if not as_text and lens.models is not None and len(lens.models) > 1:
        fix = "Give strings: each of its models has a tokenizer of its own."
        raise BadInput("text", type(given).__name__, fix, why="the lens reads with several models")
    texts: Sequence[str | Tensor] = strings if as_text else ids
    wanted = [positions] * len(ids)
    if decoding is not None:
        texts = [written_behind(model_of(lens), text, decoding, row) for row, text in enumerate(ids)]
        wanted = [slice(len(text), None) if positions is None else positions for text in ids]
    rows = lens.explain_each(texts, wanted, top, batch_size)
    return rows[0] if single else rows


@torch.no_grad()
def explain_each(
    lens: LensModel,
    texts: Sequence[str | Tensor],
    positions: Sequence[Positions],
    top: int = 5,
    batch_size: int = ROWS,
) -> list[Explanations]:
    """One row per explained token of each text: the explanation of its activation, and what the model predicts with
    the reconstruction in its place. A batch goes on from one text to the next."""
    frozen = model_of(lens)
    read = [read_tokens(lens, text)[1][0] for text in texts]
    wanted = [wanted_positions(own, len(ids)) for own, ids in zip(positions, read, strict=True)]
    every = [(text, position) for text, own in enumerate(wanted) for position in own]
    rows: list[list[dict[str, Any]]] = [[] for _ in texts]
    for first in range(0, len(every), batch_size):
        part = every[first : first + batch_size]
        ends: dict[int, list[int]] = {}
        for text, position in part:
            ends.setdefault(text, []).append(position)
        batch = lens.contexts_of([texts[text] for text in ends], list(ends.values()))
        applied = apply_lens(lens, lens.models or frozen, batch)
        for (text, position), row in zip(part, rows_of(lens, frozen, applied, batch, top), strict=True):
            token = frozen.tokenizer.decode(read[text][position])
            rows[text].append({"position": position, "token": token, **row})
    return [Explanations(own, tokens_of(frozen, ids)) for own, ids in zip(rows, read, strict=True)]


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


def model_of(lens: LensModel) -> FrozenLM:
    """The model that reads texts for a lens; raise where the lens was loaded without one."""
    if lens.subject is None:
        raise BadInput("subject", None, "Load the lens with subject=FrozenLM.from_pretrained(...) to explain texts.")
    return lens.subject


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


def contexts_of(lens: LensModel, texts: Sequence[str | Tensor], ends: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Each text up to each of some of its tokens, padded on the left, so that only one column of each meets the
    vocabulary; and what the lens reads there, of all texts in one pass."""
    frozen = model_of(lens)
    heads = [read_tokens(lens, text)[1][0, : max(own) + 1] for text, own in zip(texts, ends, strict=True)]
    # Padded on the right, where no token of a text looks.
    padded = pad_sequence(heads, batch_first=True)
    sites = lens.config.sites or []
    read = frozen.read({"input_ids": padded}, sites)
    rows = [(text, end) for text, own in enumerate(ends) for end in own]
    text, end = torch.tensor(rows, device=padded.device).unbind(1)
    activations = {site: read[site][text.to(read[site].device), end.to(read[site].device)] for site in sites}
    width = padded.shape[1]
    columns = torch.arange(width, device=padded.device) - (width - 1 - end.unsqueeze(1))
    contexts = {"input_ids": padded[text.unsqueeze(1), columns.clamp_min(0)], "attention_mask": (columns >= 0).long()}
    return {**contexts, "activations": activations}


def read_tokens(lens: LensModel, text: str | Tensor) -> tuple[FrozenLM, Tensor]:
    """The model, and the tokens `[1, S]` that it reads of a text; raise where it cannot."""
    frozen = model_of(lens)
    (ids,) = token_ids(frozen, text)[0]
    if len(ids) < 2:
        raise BadInput("text", text, "Give at least one word.")
    return frozen, ids[None]
