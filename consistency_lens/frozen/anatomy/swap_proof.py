"""Prove, before it is first used, that the single-token swap of a model equals its whole pass.

A cache is the model's own code: one that counts positions in another way, or that a pass changes in place, would give
other numbers than the whole pass without an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedModel

from ...errors import BadInput
from ..generation.passes import EditedPass
from ..loaded_lm import LoadedLM
from ..prefix import IN_PLACE, WHOLE_PASSES, Prefix
from .parts import ANATOMY

_LENGTHS = (7, 5, 6, 4)
_EXACT, _HALF = 1e-3, 0.1  # of the largest logit: in float32, and in half precision or quantised

_REFUSED: WeakKeyDictionary[PreTrainedModel, str] = WeakKeyDictionary()  # why, or nothing where the swap is exact


def require_exact_swap(lm: LoadedLM) -> None:
    """Compare both ways on a few random rows, once; raise where they differ.

    A model whose architecture has a row in `ANATOMY` is not asked: the tests compare it at every site.
    """
    model = lm.model
    if model.config.model_type in ANATOMY or any(p.is_meta or not p.numel() for p in model.parameters()):
        return
    if model not in _REFUSED:
        _REFUSED[model] = _compare(lm)
    if _REFUSED[model]:
        raise BadInput("model_type", model.config.model_type, WHOLE_PASSES, why=_REFUSED[model])


@torch.no_grad()
def _compare(lm: LoadedLM) -> str:
    generator, width = torch.Generator().manual_seed(0), max(_LENGTHS)
    ids = torch.randint(0, lm.vocab_size, (len(_LENGTHS), width), generator=generator)
    mask = torch.stack([torch.arange(width) >= width - length for length in _LENGTHS]).long()
    batch = {"input_ids": ids, "attention_mask": mask}
    prefix = Prefix(lm, batch)
    before = [tensor.clone() for tensor in _tensors([vars(layer) for layer in prefix._cache.layers])]
    fast, slow = prefix.logits().float(), EditedPass(lm, batch, ()).logits(1).float()
    after = [*_tensors([vars(layer) for layer in prefix._cache.layers])]
    if len(before) != len(after) or not all(torch.equal(old, new) for old, new in zip(before, after, strict=True)):
        return IN_PLACE
    # The second lowest of four rows: three are padded, and in half precision rounding may send a token of any one row
    # to another expert.
    gap = float(((fast - slow).abs().amax((1, 2)) / slow.abs().amax((1, 2))).sort().values[1])
    exact = lm.dtype in (torch.float32, torch.float64) and lm.quantization == "none"
    if gap <= (_EXACT if exact else _HALF):  # a gap that is no number will not do
        return ""
    return f"at P its cached pass differs from the whole one by {gap:.2g} of the largest logit"


def _tensors(kept: Any) -> Iterator[torch.Tensor]:
    """All tensors that the layers of a cache keep, also those in lists and dicts."""
    if isinstance(kept, torch.Tensor):
        yield kept
    elif isinstance(kept, (list, tuple)):
        for each in kept:
            yield from _tensors(each)
    elif isinstance(kept, dict):
        yield from _tensors([*kept.values()])
