"""The language model of each part of a lens: a clone of the frozen model, or the frozen model itself."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME as FOREIGN

from ...base.adapters import add_adapter, without_adapters
from ...base.saving.lens_files import HEADS, require_shapes, saved_shapes
from ...errors import BadInput
from ...frozen import FrozenLM, Site
from ...frozen.anatomy.parts import longest_context, truncate
from ...frozen.loading.load import in_float32
from ...frozen.loading.whole import refusing_damage
from ..configuration import ConsistencyLensConfig


def backbone(config: ConsistencyLensConfig, frozen: FrozenLM | None, part: str) -> tuple[PreTrainedModel, str | None]:
    """The language model for one part, and what its adapter on it is called. Without a model only one with weights of
    its own (`full`) can be made, and these are left to be loaded."""
    kind = config.kind_of(part)
    if frozen is None and kind != "full":
        raise BadInput("subject", None, "Give the FrozenLM: this lens uses its weights.", f"{part}: trainable={kind}")
    if kind == "full":
        return cut(clone(frozen) if frozen else _blank(config), config, part), None
    assert frozen is not None
    if kind != "lora":
        return frozen.model, None
    layers = depth_of(config) if part == "encoder" else None
    return frozen.model, add_adapter(frozen.model, part, config.lora_rank, config.lora_alpha, layers)


def depth_of(config: ConsistencyLensConfig) -> int:
    """How many blocks the encoder has: those up to the site, of several up to the deepest."""
    return max(1, *(Site.parse(site).depth[0] + 1 for site in config.sites or []))


def cut(lm: PreTrainedModel, config: ConsistencyLensConfig, part: str) -> PreTrainedModel:
    """An encoder's own model without the blocks that it never runs."""
    return truncate(lm, depth_of(config)) if part == "encoder" else lm


def clone(frozen: FrozenLM, adapter: str | None = None) -> PreTrainedModel:
    """Plain weights in float32: those of the frozen model, with what an adapter adds to them."""
    if frozen.quantization != "none":
        raise BadInput("trainable", "full", "Use trainable=lora: a quantised model cannot be cloned and trained.")
    if type(frozen.model).__module__.partition(".")[0] == FOREIGN:
        why = f"{frozen.model_id} is code of its own, without which a copy in a lens could not be loaded"
        raise BadInput("trainable", "full", "Use trainable=lora, which trains the model itself.", why)
    return without_adapters(in_float32(copy.deepcopy(frozen.model)), adapter)


def _blank(config: ConsistencyLensConfig) -> PreTrainedModel:
    with refusing_damage("config.json", "lens", "Save or download it again: what it says of the model is damaged."):
        # Without what names code of its own: transformers would ask whether to run that.
        fields = {name: value for name, value in (config.subject or {}).items() if name != "auto_map"}
        subject = AutoConfig.for_model(**fields)
        config.require_room(longest_context(subject))
        made: PreTrainedModel = AutoModelForCausalLM.from_config(subject, dtype=torch.float32, trust_remote_code=False)
        return made.eval()  # no dropout, ever


def require_weights(
    config: ConsistencyLensConfig,
    folder: Path,
    alone: bool,
    parts: Sequence[str] = ("decoder", "encoder"),
) -> None:
    """Raise unless the files of a lens have the sizes that its configuration speaks of: nothing is made of these sizes
    before."""
    width, sites = config.hidden_size, len(config.sites or [])
    heads = {f"{part}.map.weight": (*([sites] if sites > 1 else []), width, width) for part in parts}
    require_shapes(heads, saved_shapes(folder, HEADS), folder, HEADS)
    for part in parts:
        match config.kind_of(part):
            case "lora":
                file = f"{part}/adapter_model.safetensors"
                saved = {name: shape for name, shape in saved_shapes(folder, file).items() if "lora_A" in name}
                ranks = {name: (config.lora_rank, *shape[1:]) for name, shape in saved.items()}
                require_shapes(ranks, saved, folder, file)
            case "full" if alone:
                file = f"{part}/model.safetensors"
                with torch.device("meta"):
                    lm: nn.Module = cut(_blank(config), config, part)
                shapes = {name: tuple(p.shape) for name, p in lm.named_parameters()}
                require_shapes(shapes, saved_shapes(folder, file), folder, file)
