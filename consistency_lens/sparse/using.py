"""Texts through a transcoder: which features are active at each token, and what happens when some are changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..base.comparing import likeliest
from ..errors import BadInput
from ..frozen import FrozenLM
from ..objectives import kl_of
from .replacing import Factors

if TYPE_CHECKING:
    from .modeling import CrosslayerTranscoder

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


def subject_of(lens: CrosslayerTranscoder) -> FrozenLM:
    if lens.subject is None:
        raise BadInput("subject", None, "Load the lens with subject=FrozenLM.from_pretrained(...) to read texts.")
    return lens.subject


def read_text(frozen: FrozenLM, text: str) -> dict[str, Tensor]:
    """The tokens of a text as a batch of one row."""
    ids = frozen.tokenizer(text, return_tensors="pt")["input_ids"].to(frozen.device)
    if ids.shape[1] < 2:
        raise BadInput("text", text, "Give at least one word.")
    frozen.require_length(ids.shape[1], "text")
    return {"input_ids": ids}


@torch.no_grad()
def features_of(lens: CrosslayerTranscoder, text: str, top: int) -> list[dict[str, Any]]:
    """One row per token but the first: `position`, `token`, its `top` strongest features, how many are `active`."""
    frozen = subject_of(lens)
    batch = read_text(frozen, text)
    found = frozen.read(batch, lens.config.read_sites)
    code = lens.compress({"activations": {site: values[0, 1:] for site, values in found.items()}})
    ids = batch["input_ids"][0].tolist()
    return [
        {"position": position, "token": frozen.tokenizer.decode(ids[position]), **row}
        for position, row in enumerate(code.rows(top), 1)
    ]


@torch.no_grad()
def amplify(lens: CrosslayerTranscoder, text: str, factors: Factors, inside: str, top: int) -> Changed:
    """What the subject predicts next, before and after features are multiplied at every token but the first."""
    if inside not in INSIDE:
        raise BadInput("inside", inside, f"Use one of {', '.join(INSIDE)}.")
    frozen = subject_of(lens)
    batch = read_text(frozen, text)
    if inside == "lens":
        edits = (lens.replaced(batch), lens.replaced(batch, factors))
    else:
        edits = ([], lens.changed(factors, batch))
    before, after = (frozen.logits(batch, own, keep=1)[:, -1] for own in edits)
    return Changed(
        likeliest(frozen.tokenizer, before[0], top),
        likeliest(frozen.tokenizer, after[0], top),
        float(kl_of(before, after)[0]),
    )
