"""Standardisation folded into weights: a lens that reads and writes activations as they are."""

from __future__ import annotations

from typing import Any, TypeVar

import torch

from ..configuration import CrosslayerTranscoderConfig
from ..transcoder import Transcoder
from .standardising import folded_bias, folded_decoder, folded_encoder

Lens = TypeVar("Lens", bound=Transcoder)


def with_settings(config: CrosslayerTranscoderConfig, **settings: Any) -> CrosslayerTranscoderConfig:
    """The same configuration with other values."""
    return CrosslayerTranscoderConfig.from_dict({**config.to_dict(), **settings})


@torch.no_grad()
def fold(lens: Lens) -> Lens:
    """A new lens with plain weights. Features, thresholds and what is written stay the same."""
    folded = type(lens)(with_settings(lens.config, standardisation="none")).to(lens.device)
    folded.subject = lens.subject
    read, written = lens.standardiser, lens.targets.standardiser
    for i, (old, new) in enumerate(zip(lens.layers_in_order, folded.layers_in_order, strict=True)):
        weight, bias = folded_encoder(old.W_enc, old.b_enc, read.mean[i], read.scale[i])
        new.W_enc.copy_(weight)
        new.b_enc.copy_(bias)
        if old.log_threshold is not None and new.log_threshold is not None:
            new.log_threshold.copy_(old.log_threshold)
        if old.W_dec is not None and new.W_dec is not None:
            new.W_dec.copy_(folded_decoder(old.W_dec, written.scale[i : i + old.reach]))
    old_targets, targets = lens.targets, folded.targets
    if old_targets.W_dec is not None and targets.W_dec is not None:
        for i, weight in enumerate(old_targets.W_dec):
            targets.W_dec[i].copy_(folded_decoder(weight, written.scale[i]))
    targets.b_dec.copy_(folded_bias(old_targets.b_dec, written.mean, written.scale))
    if old_targets.W_skip is not None and targets.W_skip is not None:
        skip = old_targets.W_skip * written.scale.unsqueeze(2) / read.scale.unsqueeze(1)
        targets.W_skip.copy_(skip)
        targets.b_dec -= torch.einsum("lod,ld->lo", skip.double(), read.mean.double()).to(targets.b_dec.dtype)
    return folded.train(lens.training)
