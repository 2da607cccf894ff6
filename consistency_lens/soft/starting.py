"""The start at which a wire works already: embeddings are a code, and a ridge map takes them to another model's.

Shapes: V words, d hidden size, d_z size of a vector.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..frozen import FrozenModels
from .compressor import Compressor
from .receiver import Receiver, principal, ridge, shared_words

logger = logging.getLogger(__name__)
_FEWEST = 2  # words that a map can be fitted to


@torch.no_grad()
def start_from_embeddings(
    compressor: Compressor,
    receiver: Callable[[str], Receiver],
    models: FrozenModels,
    tables: Mapping[str, Tensor],
) -> dict[str, float]:
    """Set the linear maps of a wire whose compressor starts from one of the models.

    The compressor's own model gets its embeddings back (with fewer coordinates, the principal ones); each other model
    what ridge regression makes of them, fitted to the words that both vocabularies have. A model that shares no words
    keeps its random start.

    Returns:
        For each model, the share of variance of its embeddings that its map explains on those words.
    """
    name = compressor.config.compressor_model
    assert name is not None
    unit = tables[name] / compressor.config.compressor_rms
    down = principal(unit, compressor.config.d_z).to(unit)
    compressor.down.weight.copy_(down)
    compressor.down.bias.zero_()
    explained = {}
    for other, model in models.items():
        own, theirs = receiver(other), tables[other] / receiver(other).rms
        if own.modes is not None:
            own.modes.copy_(theirs.mean(0).expand_as(own.modes))
        if other == name:
            own.first.weight.copy_(down.T)
            own.first.bias.zero_()
            explained[other] = 1 - float((unit - unit @ down.T @ down).square().sum() / unit.square().sum())
            continue
        words = shared_words(models[name].tokenizer, model.tokenizer)
        known = [(i, j) for i, j in zip(*words, strict=True) if i < len(unit) and j < len(theirs)]
        if len(known) < _FEWEST:
            logger.warning("%s shares no words with %s: its adapter starts at random", other, name)
            continue
        here, there = (torch.tensor(ids) for ids in zip(*known, strict=True))
        x, y = unit[here.to(unit.device)] @ down.T, theirs[there.to(theirs.device)]
        weight, bias, explained[other] = ridge(x, y.to(x.device))
        own.first.weight.copy_(weight)
        own.first.bias.copy_(bias)
        logger.info("%s: %d words shared with %s, r² %.2f", other, len(known), name, explained[other])
    return explained
