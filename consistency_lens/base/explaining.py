"""A text, token by token: how the lens explains each activation, and what the model predicts from the reconstruction.

Shapes: S tokens of the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

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
    if decoding is not None:
        written = [written_behind(model_of(lens), text, decoding, row) for row, text in enumerate(ids)]
        own = [slice(len(text), None) if positions is None else positions for text in ids]
        rows = [lens.explain_one(text, own[i], top, batch_size) for i, text in enumerate(written)]
        return rows[0] if single else rows
    texts: Sequence[str | Tensor] = strings if as_text else ids
    rows = [lens.explain_one(text, positions, top, batch_size) for text in texts]
    return rows[0] if single else rows


@torch.no_grad()
def explain_one(
    lens: LensModel, text: str | Tensor, positions: Positions = None, top: int = 5, batch_size: int = ROWS
) -> Explanations:
    """One row per explained token: the explanation of its activation, and what the model predicts with the
    reconstruction in its place."""
    frozen, ids = read_tokens(lens, text)
    wanted = wanted_positions(positions, ids.shape[1])
    rows: list[dict[str, Any]] = []
    for first in range(0, len(wanted), batch_size):
        part = wanted[first : first + batch_size]
        batch = lens.contexts_of(text, part)
        applied = apply_lens(lens, lens.models or frozen, batch)
        found = rows_of(lens, frozen, applied, batch, top)
        for position, row in zip(part, found, strict=True):
            rows.append({"position": position, "token": frozen.tokenizer.decode(ids[0, position]), **row})
    return Explanations(rows, tokens_of(frozen, ids[0]))


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


def contexts_of(lens: LensModel, text: str | Tensor, ends: Sequence[int]) -> dict[str, Any]:
    """The text up to each of some tokens, padded on the left, so that only one column of each meets the vocabulary;
    and what the lens reads there."""
    frozen, ids = read_tokens(lens, text)
    sites = lens.config.sites or []
    read = frozen.read({"input_ids": ids}, sites)
    activations = {site: read[site][0, list(ends)] for site in sites}
    width = max(ends) + 1
    columns = torch.arange(width, device=ids.device) - (width - 1 - torch.tensor(ends, device=ids.device).unsqueeze(1))
    contexts = {"input_ids": ids[0][columns.clamp_min(0)], "attention_mask": (columns >= 0).long()}
    return {**contexts, "activations": activations}


def read_tokens(lens: LensModel, text: str | Tensor) -> tuple[FrozenLM, Tensor]:
    """The model, and the tokens `[1, S]` that it reads of a text; raise where it cannot."""
    frozen = model_of(lens)
    (ids,) = token_ids(frozen, text)[0]
    if len(ids) < 2:
        raise BadInput("text", text, "Give at least one word.")
    return frozen, ids[None]
