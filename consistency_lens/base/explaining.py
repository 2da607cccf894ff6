"""A text, token by token: what the lens says about each activation, and what putting it back does to the model.

Shapes: S tokens of the text, K explained positions, V vocabulary, d hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import BadInput
from ..objectives import cosine_of
from .comparing import apply_lens
from .explanations import Explanations

if TYPE_CHECKING:
    from ..frozen import FrozenLM
    from .modeling import LensModel

Positions = int | slice | Sequence[int] | None

ROWS = 32


@torch.no_grad()
def explain_ids(
    lens: LensModel, ids: Tensor, positions: Positions = None, top: int = 5, batch_size: int = ROWS
) -> Explanations:
    """One row per explained token of one text: what the lens says of the activation at one site, and what the model
    predicts there with the reconstruction in its place."""
    frozen = model_of(lens)
    wanted = wanted_positions(positions, len(ids))
    (site,) = lens.config.sites or []
    read = frozen.read({"input_ids": ids[None]}, site)[site][0]
    rows: list[dict[str, Any]] = []
    for first in range(0, len(wanted), batch_size):
        part = wanted[first : first + batch_size]
        # Each context up to its token, so that only one column of each meets the vocabulary.
        applied = apply_lens(lens, frozen, {**_contexts(ids, part), "activations": {site: read[part]}})
        kl, cosine = applied.kl, cosine_of(applied.edits[0].tensor, read[part])
        for i, (position, described) in enumerate(zip(part, lens.describe(applied.code), strict=True)):
            before, after = applied.likeliest(frozen.tokenizer, i, top)
            rows.append(
                {
                    "position": position,
                    "token": frozen.tokenizer.decode(ids[position]),
                    **described,
                    "kl": float(kl[i]),
                    "cosine": float(cosine[i]),
                    "before": before,
                    "after": after,
                }
            )
    return Explanations(rows, [frozen.tokenizer.decode(token) for token in ids])


def model_of(lens: LensModel) -> FrozenLM:
    """The model that reads texts for a lens; raise where the lens was loaded without one."""
    if lens.subject is None:
        raise BadInput("subject", None, "Load the lens with subject=FrozenLM.from_pretrained(...) to explain texts.")
    return lens.subject


def wanted_positions(positions: Positions, length: int) -> list[int]:
    """Positions counted from the beginning; by default all but the first, which no text says anything about."""
    if length < 2:
        raise BadInput("text", f"{length} tokens", "Give at least one word.")
    if positions is None:
        return list(range(1, length))
    if isinstance(positions, slice):
        return list(range(length))[positions]
    named = [positions] if isinstance(positions, int) else list(positions)
    if bad := [p for p in named if not -length <= p < length]:
        fix = f"The text has {length} tokens: use 0 to {length - 1}, or negative ones."
        raise BadInput("positions", bad[0], fix)
    return [p + length if p < 0 else p for p in named]


def _contexts(ids: Tensor, ends: Sequence[int]) -> dict[str, Tensor]:
    """The text up to each of some tokens, padded on the left."""
    width = max(ends) + 1
    columns = torch.arange(width, device=ids.device) - (width - 1 - torch.tensor(ends, device=ids.device).unsqueeze(1))
    return {"input_ids": ids[columns.clamp_min(0)], "attention_mask": (columns >= 0).long()}
