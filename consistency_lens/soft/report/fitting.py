"""Codes that are fitted to an answer that is known: what a receiver could read, whatever the compressor writes.

The gap to the compressor's own code is what was not written; the gap to the text is what cannot be read.

Shapes: B rows, M vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...frozen import FrozenModels
from ...objectives import answer_nll_of, first_token_of
from ..code import LatentCode

if TYPE_CHECKING:
    from ..modeling import LatentWire

STEPS, RATE = 60, 0.1


def some_rows(batch: Mapping[str, Any], count: int) -> dict[str, Any]:
    """The first rows of a batch of passages."""

    def cut(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: cut(each) for name, each in value.items()}
        return value[:count] if isinstance(value, (Tensor, list)) else value

    found: dict[str, Any] = cut(batch)
    return found


def fitted(lens: LatentWire, models: FrozenModels, batch: Mapping[str, Any], code: LatentCode) -> dict[str, Tensor]:
    """`oracle_nll` and `oracle_first_token` of each row and receiver, `[B]`: behind a code that was fitted to this
    answer by gradient steps on the vectors, for each receiver alone, from the compressor's code on; and `oracle_gap`,
    the nll of the compressor's code less that.

    Args:
        lens: the wire; nothing of it changes.
        models: its receivers.
        batch: a few rows.
        code: theirs.
    """
    read: dict[str, Tensor] = {}
    scale = float(code.vectors[code.mask].square().mean().sqrt())
    for name, model in models.items():
        tokens = batch["tokens"][name]
        ids, mask = (tokens[part].to(model.device) for part in ("answer_ids", "answer_mask"))

        def logits_of(vectors: Tensor, name: str = name) -> Tensor:
            edit = lens.soft_tokens(LatentCode(vectors, code.mask), batch, name)
            tokens, model = batch["tokens"][name], models[name]
            return model.logits(tokens["bare"], edit, keep=tokens["answer_ids"].shape[1])

        with torch.enable_grad():
            vectors = code.vectors.detach().clone().requires_grad_()
            optimizer = torch.optim.Adam([vectors], RATE * scale)
            for _ in range(STEPS):
                optimizer.zero_grad()
                answer_nll_of(logits_of(vectors), ids, mask).sum().backward(inputs=[vectors])
                optimizer.step()
        with torch.no_grad():
            logits = logits_of(vectors)
            read[f"oracle_nll/{name}"] = nll = answer_nll_of(logits, ids, mask)
            read[f"oracle_gap/{name}"] = answer_nll_of(logits_of(code.vectors), ids, mask) - nll
            read[f"oracle_first_token/{name}"] = first_token_of(logits, ids).float()
    return read
