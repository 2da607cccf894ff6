"""The language model of each part of a lens: a clone of the subject, or the subject itself."""

from __future__ import annotations

import copy

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from ..base.adapters import add_adapter, without_adapters
from ..errors import BadInput
from ..frozen import FrozenLM, Site
from ..frozen.anatomy import longest_context, truncate
from ..frozen.loading import in_float32
from ..frozen.whole import refusing_damage
from .configuration import ConsistencyLensConfig


def backbone(config: ConsistencyLensConfig, frozen: FrozenLM | None, part: str) -> PreTrainedModel:
    """The language model for one part. Without a subject only one with weights of its own (`full`) can be made, and
    these are left to be loaded."""
    kind = config.kind_of(part)
    if frozen is None and kind != "full":
        raise BadInput("subject", None, "Give the FrozenLM: this lens uses its weights.", f"{part}: trainable={kind}")
    if kind == "full":
        return cut(clone(frozen) if frozen else _blank(config), config, part)
    assert frozen is not None
    if kind == "lora":
        layers = depth_of(config) if part == "encoder" else None
        add_adapter(frozen.model, part, config.lora_rank, config.lora_alpha, layers)
    return frozen.model


def depth_of(config: ConsistencyLensConfig) -> int:
    """How many blocks the encoder has: those up to the site."""
    return max(1, Site.parse(config.only_site).depth[0] + 1)


def cut(lm: PreTrainedModel, config: ConsistencyLensConfig, part: str) -> PreTrainedModel:
    """An encoder's own model without the blocks that it never runs."""
    return truncate(lm, depth_of(config)) if part == "encoder" else lm


def clone(frozen: FrozenLM, adapter: str | None = None) -> PreTrainedModel:
    """Plain weights in float32: those of the subject, with what an adapter adds to them."""
    if frozen.quantization != "none":
        raise BadInput("trainable", "full", "Use trainable=lora: a quantised subject cannot be cloned and trained.")
    return without_adapters(in_float32(copy.deepcopy(frozen.model)), adapter)


def _blank(config: ConsistencyLensConfig) -> PreTrainedModel:
    with refusing_damage("config.json", "lens", "Save or download it again: what it says of the subject is damaged."):
        subject = AutoConfig.for_model(**(config.subject or {}))
        config.require_room(longest_context(subject))
        return AutoModelForCausalLM.from_config(subject, dtype=torch.float32).eval()  # no dropout, ever
