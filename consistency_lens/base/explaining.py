"""A text, token by token: what the lens says about each activation, and what putting it back does to the subject.

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

if TYPE_CHECKING:
    from .modeling import LensModel

ROWS = 32


@torch.no_grad()
def explain_text(
    lens: LensModel, text: str, positions: Sequence[int] | None = None, top: int = 5
) -> list[dict[str, Any]]:
    """One row per explained token.

    Each holds `position`, `token`, what the lens says (`explanation`), `kl` from what the subject says next to what it
    says with the restored activation in place, `cosine`, and the likeliest next tokens `before` and `after` with their
    probabilities.
    """
    frozen = lens.subject
    if frozen is None:
        raise BadInput("subject", None, "Load the lens with subject=FrozenLM.from_pretrained(...) to explain texts.")
    ids = frozen.tokenizer(text, return_tensors="pt")["input_ids"].to(frozen.device)
    length = ids.shape[1]
    if length < 2:
        raise BadInput("text", text, "Give at least one word.")
    frozen.require_length(length, "text")
    wanted = list(range(1, length)) if positions is None else [p + length if p < 0 else p for p in positions]
    bad = [p for p in wanted if not 0 <= p < length]
    if bad:
        raise BadInput("positions", bad[0], f"The text has {length} tokens: use 0 to {length - 1}, or negative ones.")
    (site,) = lens.config.sites or []
    read = frozen.read({"input_ids": ids}, site)[site][0]
    rows: list[dict[str, Any]] = []
    for first in range(0, len(wanted), ROWS):
        part = wanted[first : first + ROWS]
        # Each context up to its token, so that only one column of each meets the vocabulary.
        applied = apply_lens(lens, frozen, {**_contexts(ids[0], part), "activations": {site: read[part]}})
        kl, cosine = applied.kl, cosine_of(applied.edits[0].tensor, read[part])
        for i, (position, described) in enumerate(zip(part, lens.describe(applied.code), strict=True)):
            before, after = applied.likeliest(frozen.tokenizer, i, top)
            rows.append(
                {
                    "position": position,
                    "token": frozen.tokenizer.decode(ids[0, position]),
                    **described,
                    "kl": float(kl[i]),
                    "cosine": float(cosine[i]),
                    "before": before,
                    "after": after,
                }
            )
    return rows


def _contexts(ids: Tensor, ends: Sequence[int]) -> dict[str, Tensor]:
    """The text up to each of some tokens, padded on the left."""
    width = max(ends) + 1
    columns = torch.arange(width, device=ids.device) - (width - 1 - torch.tensor(ends, device=ids.device).unsqueeze(1))
    return {"input_ids": ids[columns.clamp_min(0)], "attention_mask": (columns >= 0).long()}
