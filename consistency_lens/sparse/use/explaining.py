"""A text, token by token: the active features, and what the model predicts with the lens in place of its sites."""

from __future__ import annotations

import torch
from torch import Tensor

from ...base.comparing import WholePass
from ...base.comparing.chain import likeliest
from ...base.explaining import Positions, read_tokens, tokens_of
from ...base.explanations import Explanations
from ...objectives import kl_of
from ..transcoder import Transcoder
from .replacing import Factors, changed, replaced
from .using import features_of, require_inside


@torch.no_grad()
def explain_tokens(
    lens: Transcoder,
    text: str | Tensor,
    positions: Positions = None,
    top: int = 5,
    factors: Factors | None = None,
    inside: str = "model",
) -> Explanations:
    """One row per token: its features, and the prediction at it without the lens (`before`) and with the lens in the
    place of all its sites, inside one pass (`after`), with the `kl` between them. Where features are changed, these
    are the predictions without the change and with it, at every token.

    Args:
        lens: with its model.
        text: what the model reads.
        positions: tokens of the text, negative ones counted from its end; default all but the first, whose values
            the lens does not replace.
        top: features, and likeliest next tokens, of each.
        factors: (layer, feature) -> what to multiply the feature by, at every token but the first.
        inside: which pass they are changed in, as for `amplify`.
    """
    require_inside(inside)
    frozen, ids = read_tokens(lens, text)
    batch = {"input_ids": ids}
    described = features_of(lens, text, top, positions)
    comparison = WholePass.of(frozen, batch)
    clean = comparison.clean
    if not factors:
        edited = comparison.edited(replaced(lens, batch, {}))
    elif inside == "model":
        edited = comparison.edited(changed(lens, batch, factors))
    else:
        clean, edited = comparison.edited(replaced(lens, batch, {})), comparison.edited(replaced(lens, batch, factors))
    kl = kl_of(clean[0], edited[0]).tolist()
    rows = [
        {
            **row,
            "kl": kl[row["position"]],
            "before": likeliest(frozen.tokenizer, clean[0, row["position"]], top),
            "after": likeliest(frozen.tokenizer, edited[0, row["position"]], top),
        }
        for row in described
    ]
    return Explanations(rows, tokens_of(frozen, ids[0]))
