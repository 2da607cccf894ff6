"""Texts through a transcoder: which features are active at each token, and what happens when some are changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...base.comparing import likeliest
from ...base.explaining import Positions, read_tokens, wanted_positions
from ...errors import BadInput
from ...objectives import kl_of
from ..transcoder import Transcoder
from .replacing import Factors, changed, replaced

INSIDE = ("model", "lens")


@dataclass(frozen=True)
class Changed:
    """What a change of features does to the next token.

    Args:
        before, after: the likeliest next tokens with their probabilities.
        kl: from what is predicted before to what is predicted after, in nats.
    """

    before: list[tuple[str, float]]
    after: list[tuple[str, float]]
    kl: float


@torch.no_grad()
def features_of(
    lens: Transcoder,
    text: str | Tensor,
    top: int = 10,
    positions: Positions = None,
    contexts: int = 0,
) -> list[dict[str, Any]]:
    """One row per token: `position`, `token`, its `top` strongest `features` as (layer, feature, value), the `labels`
    of these with their `scores`, how many are `active`, and, where they are asked for, the `contexts` of each.

    Args:
        lens: with its frozen model; of one that knows no contexts, labels are empty.
        text: what the model reads, as a string or as token ids.
        top: how many features to name.
        positions: tokens of the text, negative ones counted from its end; default all but the first.
        contexts: how many contexts to give for each feature, the strongest first.
    """
    if contexts and lens.contexts is None:
        fix = "Evaluate it, or call describe_features(lens, batches)."
        raise BadInput("contexts", contexts, fix, why="nothing is known yet of what the lens's features stand for")
    frozen, rows_of_ids = read_tokens(lens, text)
    ids = rows_of_ids[0].tolist()
    wanted = wanted_positions(positions, len(ids))
    read = frozen.read({"input_ids": rows_of_ids}, lens.config.read_sites)
    # All tokens at once: a BatchTopK compares them.
    code: Any = lens.compress({"activations": {site: values[0, 1:] for site, values in read.items()}})
    if 0 in wanted:
        tokens: Any = lens.compress({"activations": {site: values[0, :1] for site, values in read.items()}})
        first = tokens.rows(top)
    else:
        first = [{}]
    rows = [*first, *code.rows(top)]
    found = [{"position": p, "token": frozen.tokenizer.decode(ids[p]), **rows[p]} for p in wanted]
    return [row | _known(lens, row.get("features", ()), contexts) for row in found]


def _known(lens: Transcoder, features: Sequence[tuple[int, int, float]], contexts: int) -> dict[str, Any]:
    """Labels of some features, and contexts of each."""
    known = lens.contexts
    if known is None:
        return {"labels": ["" for _ in features], "scores": [0.0 for _ in features]}
    found: dict[str, Any] = {"labels": [known.label(layer, feature) for layer, feature, _ in features]}
    found["scores"] = [known.score(layer, feature) for layer, feature, _ in features]
    if contexts:
        found["contexts"] = [known.of(layer, feature)["contexts"][:contexts] for layer, feature, _ in features]
    return found


def require_inside(inside: str) -> None:
    if inside not in INSIDE:
        raise BadInput("inside", inside, f"Use one of {', '.join(INSIDE)}.")


@torch.no_grad()
def amplify(lens: Transcoder, text: str, factors: Factors, inside: str, top: int) -> Changed:
    """What the frozen model predicts next, before and after features are multiplied at every token but the first."""
    require_inside(inside)
    frozen, ids = read_tokens(lens, text)
    batch = {"input_ids": ids}
    if inside == "lens":
        edits = (replaced(lens, batch, {}), replaced(lens, batch, factors))
    else:
        edits = ([], changed(lens, batch, factors))
    before, after = (frozen.logits(batch, own, keep=1)[:, -1] for own in edits)
    return Changed(
        likeliest(frozen.tokenizer, before[0], top),
        likeliest(frozen.tokenizer, after[0], top),
        float(kl_of(before, after)[0]),
    )
