"""A text, token by token: which features are active, and what the model predicts with the lens in place of its sites."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..base.comparing import WholePass
from ..base.comparing.chain import likeliest
from ..errors import BadInput
from ..objectives import kl_of
from .using import features_of, read_text, subject_of

if TYPE_CHECKING:
    from .modeling import CrosslayerTranscoder


@torch.no_grad()
def explain_tokens(
    lens: CrosslayerTranscoder, text: str, positions: Sequence[int] | None = None, top: int = 5
) -> list[dict[str, Any]]:
    """One row per token: its features, and the prediction at it without the lens (`before`) and with the lens in the
    place of all its sites, inside one pass (`after`), with the `kl` between them.

    Args:
        lens: with its model.
        text: what the model reads.
        positions: which tokens; default all but the first, whose values the lens does not replace.
        top: features, and likeliest next tokens, of each.
    """
    frozen = subject_of(lens)
    batch = read_text(frozen, text)
    length = batch["input_ids"].shape[1]
    wanted = list(range(1, length)) if positions is None else [p + length if p < 0 else p for p in positions]
    for given in [p for p in wanted if not 1 <= p < length]:
        raise BadInput("positions", given, f"The text has {length} tokens: use 1 to {length - 1}, or negative ones.")
    described = {row["position"]: row for row in features_of(lens, text, top)}
    comparison = WholePass.of(frozen, batch)
    edited = comparison.edited(lens.replaced(batch))
    kl = kl_of(comparison.clean[0], edited[0]).tolist()
    return [
        {
            **described[position],
            "kl": kl[position],
            "before": likeliest(frozen.tokenizer, comparison.clean[0, position], top),
            "after": likeliest(frozen.tokenizer, edited[0, position], top),
        }
        for position in wanted
    ]
