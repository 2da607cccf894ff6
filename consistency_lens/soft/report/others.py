"""Codes of other compressors: an adapter that reads them has learned to read the model's embeddings, not this code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ...base.modeling import LensModel
from ...errors import BadInput
from ...frozen import FrozenModels
from ..bytes.quantising import quantise_ste
from ..code import LatentCode
from ..configuration import LatentWireConfig
from ..modeling import LatentWire
from ..parts.compressor import first_layers
from ..parts.receiver import embedding_table
from ..parts.starting import start_from_embeddings


def others_of(lens: Any, models: FrozenModels, given: LensModel | None) -> dict[str, LatentWire]:
    """`untrained`, where the compressor started from one of the receivers: another model is not at hand any more;
    `other_wire`, where one is given.

    Args:
        lens: the wire that is evaluated.
        models: its receivers.
        given: a wire of the same models, in eval mode.
    """
    found = {}
    if lens.config.compressor_model is not None and lens.config.pooling == "contiguous":
        found["untrained"] = as_started(lens, models)
    if given is not None:
        if not isinstance(given, LatentWire) or given.config.d_z != lens.config.d_z:
            fix = f"Name a wire with vectors of {lens.config.d_z} numbers."
            raise BadInput("other_wire", given.config.code_in_words, fix, why="this lens could not read its code")
        given.config.require_subject(models)
        found["other_wire"] = given
    return found


def as_started(lens: Any, models: FrozenModels) -> LatentWire:
    """The compressor that a lens had before any training; of the adapters, only that of its own model."""
    own = models[lens.config.compressor_model]
    config = LatentWireConfig.from_dict(lens.config.to_dict() | {"compressor_lora_rank": None})
    lm, table = first_layers(own, lens.compressor.lm.config.num_hidden_layers), embedding_table(own)
    started = LatentWire(config, lm, own.tokenizer)
    started.initialise(seed=0)
    start_from_embeddings(started.compressor, started.receiver, own, table, FrozenModels([own]), {own.name: table})
    return started.to(lens.device).eval()


@torch.no_grad()
def recoded(wire: LatentWire, code: LatentCode, batch: Mapping[str, Any], config: LatentWireConfig) -> LatentCode:
    """The passages compressed by another wire, into as many vectors, rounded as a lens of this configuration does."""
    counts = code.mask.sum(1)
    ids, mask = wire.read_of(batch)
    given = None if wire.config.pooling == "learned" else torch.minimum(counts.to(mask.device), mask.sum(1))
    vectors, there = wire.compressor(ids, mask, counts=given)
    return LatentCode(quantise_ste(vectors.float(), config.bits, config.group), there)
