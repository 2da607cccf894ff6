"""What receivers compute, and then keep, before the first token of an answer, behind a code and behind the text."""

from __future__ import annotations

import torch
from torch import Tensor

from ...activations.passages import context_of
from ...evaluation import Seen
from ..sizing import cache_of, matrices_of, prefill_of

GIGA, MEGA = 1e9, 1e6


def prefills(seen: Seen, vectors: Tensor | None) -> dict[str, Tensor]:
    """`prefill/NAME` of each receiver, `[B]`, in billions of operations, and `cache/NAME` in megabytes.

    Args:
        seen: the batch.
        vectors: of each row's code, `[B]`, its adapter included; None for the text in its place.
    """
    found = {}
    for name, model in seen.models.items():
        tokens = seen.batch["tokens"][name]
        lengths = context_of(tokens, "full" if vectors is None else "bare")["attention_mask"].sum(1).cpu()
        count = torch.zeros_like(lengths) if vectors is None else vectors.cpu() + bool(seen.lens.config.modes)
        adapter = 2 * count * matrices_of(seen.lens.receiver(name))
        found[f"prefill/{name}"] = (prefill_of(model.model, lengths + count) + adapter) / GIGA
        size = cache_of(model.model.config.get_text_config(), lengths + count, model.dtype.itemsize)
        found[f"cache/{name}"] = size / MEGA
    return found
