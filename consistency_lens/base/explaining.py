"""A text, token by token: what the lens says about each activation, and what putting it back does to the subject.

Shapes: S tokens of the text, K explained positions, V vocabulary, d hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import BadInput
from ..frozen import FrozenLM
from .comparing import apply_lens
from .comparing.rows import of_vectors

if TYPE_CHECKING:
    from .modeling import LensModel

ROWS = 32


@torch.no_grad()
def explain_text(
    lens: LensModel, text: str, positions: Sequence[int] | None = None, top: int = 5
) -> list[dict[str, Any]]:
    """One row per explained token.

    Each holds `position`, `token`, what the lens says (`explanation`), `kl` from what the subject says next to what it
    says with the restored activation in place, `cosine` where one vector was restored, and the likeliest next tokens
    `before` and `after` with their probabilities.
    """
    frozen, ids = read_tokens(lens, text)
    length = ids.shape[1]
    wanted = list(range(1, length)) if positions is None else [p + length if p < 0 else p for p in positions]
    bad = [p for p in wanted if not 0 <= p < length]
    if bad:
        raise BadInput("positions", bad[0], f"The text has {length} tokens: use 0 to {length - 1}, or negative ones.")
    rows: list[dict[str, Any]] = []
    for first in range(0, len(wanted), ROWS):
        part = wanted[first : first + ROWS]
        batch = lens.contexts_of(text, part)
        applied = apply_lens(lens, lens.models or frozen, batch)
        kl, more = applied.kl, of_vectors(applied.edits, batch)
        for i, (position, described) in enumerate(zip(part, lens.describe(applied.code), strict=True)):
            before, after = applied.likeliest(frozen.tokenizer, i, top, applied.comparison.last_column(i))
            rows.append(
                {
                    "position": position,
                    "token": frozen.tokenizer.decode(ids[0, position]),
                    **described,
                    "kl": float(kl[i]),
                    **{name: values[i] for name, values in more.items()},
                    "before": before,
                    "after": after,
                }
            )
    return rows


def contexts_of(lens: LensModel, text: str, ends: Sequence[int]) -> dict[str, Any]:
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


def read_tokens(lens: LensModel, text: str) -> tuple[FrozenLM, Tensor]:
    """The subject, and the tokens `[1, S]` that it reads of a text; raise where it cannot."""
    frozen = lens.subject
    if frozen is None:
        raise BadInput("subject", None, "Load the lens with subject=FrozenLM.from_pretrained(...) to explain texts.")
    ids = frozen.tokenizer(text, return_tensors="pt")["input_ids"].to(frozen.device)
    if ids.shape[1] < 2:
        raise BadInput("text", text, "Give at least one word.")
    frozen.require_length(ids.shape[1], "text")
    return frozen, ids
