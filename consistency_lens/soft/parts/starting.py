"""The start at which a wire works already: embeddings are a code, and a ridge map takes them to another model's.

Shapes: V words, d hidden size, d_z size of a vector.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ...frozen import FrozenLM, FrozenModels
from .compressor import Compressor
from .receiver import Receiver, principal, ridge, shared_words

logger = logging.getLogger(__name__)
_FEWEST = 2  # words that a map can be fitted to


@torch.no_grad()
def start_from_embeddings(
    compressor: Compressor,
    receiver: Callable[[str], Receiver],
    source: FrozenLM,
    words: Tensor,
    models: FrozenModels,
    tables: Mapping[str, Tensor],
) -> dict[str, float]:
    """Set the linear maps of a wire whose compressor starts from a language model.

    The compressor's own model, where it is a receiver, gets its embeddings back (with fewer coordinates, the principal
    ones); each other receiver what ridge regression makes of them, fitted to the words that both vocabularies have. A
    receiver that shares no words keeps its random start.

    Args:
        compressor: of the wire.
        receiver: the adapter of a name.
        source: the compressor's own model.
        words: its embeddings, `[V, d]`.
        models: the receivers.
        tables: their embeddings, `[V, d]` each.

    Returns:
        For each receiver, the share of variance of its embeddings that its map explains on those words.
    """
    unit = words / compressor.config.compressor_rms
    down = principal(unit, compressor.config.d_z, ordered=bool(compressor.config.nested)).to(unit)
    compressor.down.weight.copy_(down)
    compressor.down.bias.zero_()
    explained = {}
    for other, model in models.items():
        own, theirs = receiver(other), tables[other] / receiver(other).rms
        if own.modes is not None:
            own.modes.copy_(theirs.mean(0).expand_as(own.modes))
        if model is source:
            own.first.weight.copy_(down.T)
            own.first.bias.zero_()
            explained[other] = 1 - float((unit - unit @ down.T @ down).square().sum() / unit.square().sum())
            continue
        found = fit_to_words(
            own,
            lambda ids: unit[ids.to(unit.device)] @ down.T,
            len(unit),
            source.tokenizer,
            source.model_id,
            model,
            theirs,
        )
        if found is not None:
            explained[other] = found
    return explained


@torch.no_grad()
def fit_to_words(
    receiver: Receiver,
    code_of: Callable[[Tensor], Tensor],
    known: int,
    tokenizer: PreTrainedTokenizerBase,
    source: str,
    model: FrozenLM,
    table: Tensor,
) -> float | None:
    """Set an adapter to the ridge map from codes of single words to a model's embeddings of the same words.

    Args:
        receiver: of the model; where it shares no words with the other one, it stays as it is.
        code_of: ids of words, `[n]`, to their codes, `[n, d_z]`.
        known: how many ids there are codes of.
        tokenizer: with which the compressor reads.
        source: the model whose tokenizer that is, in messages.
        model: the receiver's.
        table: its embeddings, `[V, d]`, in units of their root mean square.

    Returns:
        The share of variance that the map explains, or None.
    """
    words = zip(*shared_words(tokenizer, model.tokenizer), strict=True)
    pairs = [(i, j) for i, j in words if i < known and j < len(table)]
    if len(pairs) < _FEWEST:
        logger.warning("%s shares no words with %s: its adapter starts at random", model.name, source)
        return None
    here, there = (torch.tensor(ids, device=table.device) for ids in zip(*pairs, strict=True))
    x = code_of(here)
    weight, bias, explained = ridge(x, table[there].to(x.device))
    receiver.first.weight.copy_(weight)
    receiver.first.bias.copy_(bias)
    logger.info("%s: %d words shared with %s, r² %.2f", model.name, len(pairs), source, explained)
    return explained
