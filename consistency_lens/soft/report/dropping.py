"""Token dropping as LLMLingua does it: the tokens of the passage that a model itself expected least.

Shapes: B rows, P tokens of the longest passage, V words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...frozen import FrozenLM

_LOGITS = 1 << 27  # numbers that are held at once


@torch.no_grad()
def self_information(model: FrozenLM, tokens: Mapping[str, Any]) -> Tensor:
    """`- log p(token | the tokens before it)` of each token of the passages, `[B, P]`; of padding, minus infinity.

    A first token that nothing stands before is kept: infinity.

    Args:
        model: a receiver.
        tokens: of a batch, for this model.
    """
    ids, mask = (tokens[name].to(model.device) for name in ("passage_ids", "passage_mask"))
    if tokens["bos"]:
        first = torch.full_like(ids[:, :1], int(model.tokenizer.bos_token_id))
        ids, mask = torch.cat([first, ids], 1), torch.cat([torch.ones_like(first), mask], 1)
    found, rows = [], max(1, _LOGITS // (ids.shape[1] * model.vocab_size))
    for some, there in zip(ids.split(rows), mask.split(rows), strict=True):
        logits = model.logits({"input_ids": some, "attention_mask": there})[:, :-1].float()
        found.append(-logits.log_softmax(-1).gather(-1, some[:, 1:, None])[..., 0])
    bits = torch.cat(found)
    if not tokens["bos"]:
        bits = torch.cat([torch.full_like(mask[:, :1], torch.inf, dtype=bits.dtype), bits], 1)
    return bits.masked_fill(tokens["passage_mask"].to(bits.device) == 0, -torch.inf)


def least_expected(model: FrozenLM, tokens: Mapping[str, Any], counts: Tensor) -> tuple[Tensor, Tensor]:
    """As many tokens of each passage as its code has vectors: those of the most self-information, in their order.

    Returns:
        Their places in the passage, `[B, M]`, and which of them a row has.
    """
    lengths = tokens["passage_mask"].to(model.device).sum(1)
    kept = torch.minimum(counts.to(model.device), lengths)[:, None]
    ranks = self_information(model, tokens).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    width, most = ranks.shape[1], int(kept.max())
    places = torch.arange(width, device=model.device).expand_as(ranks)
    chosen = torch.where(ranks < kept, places, width).sort(1).values[:, :most]
    return chosen.clamp(max=width - 1), torch.arange(most, device=model.device) < kept
