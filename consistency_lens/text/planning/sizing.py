"""A model in numbers, from its configuration alone: on the meta device there are shapes and no weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from ...base.adapters import adapter_parameters, add_adapter, speaking
from ...frozen.anatomy.parts import blocks_of
from ...frozen.loading.load import torch_dtype
from .work import Sizes

PART = "decoder"


def sizes_of(config: PreTrainedConfig, dtype: str = "bfloat16", rank: int = 16) -> Sizes:
    """
    Args:
        config: of any model whose architecture is known.
        dtype: of the frozen model.
        rank: of the adapters that blocks may carry.
    """
    model = _meta(config, "float32")
    text = model.config.get_text_config()
    blocks = blocks_of(model)
    in_blocks = sum(p.numel() for p in blocks.parameters())
    table = model.get_input_embeddings().weight
    head = model.get_output_embeddings().weight
    matrices = [p for p in blocks.parameters() if p.dim() > 1]
    shallow = {kind: [_shallow(config, n, dtype, kind, rank) for n in (1, 2)] for kind in ("full", "lora", "judge")}
    adapted = shallow["lora"][1]
    heads = text.num_attention_heads
    head_width = text.to_dict().get("head_dim") or text.hidden_size // heads
    groups = text.to_dict().get("num_key_value_heads") or heads
    return Sizes(
        weights=sum(p.numel() for p in model.parameters()),
        in_blocks=in_blocks,
        linear=sum(p.numel() for p in matrices),
        table=table.numel(),
        head=0 if head is table else head.numel(),
        depth=len(blocks),
        width=text.hidden_size,
        words=table.shape[0],
        keys=2 * groups * head_width,
        heads=2 * heads * head_width,
        sides=sum(p.numel() for p in adapter_parameters(adapted, PART).values()) // (2 * rank),
        kept={kind: _kept(two, kind) - _kept(one, kind) for kind, (one, two) in shallow.items()},
    )


def _meta(config: PreTrainedConfig, dtype: str) -> PreTrainedModel:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=torch_dtype(dtype)).eval()


def _shallow(config: PreTrainedConfig, blocks: int, dtype: str, kind: str, rank: int) -> PreTrainedModel:
    """The same model with one block or two, prepared as this kind of pass finds it."""
    config = copy.deepcopy(config)
    text = config.get_text_config()
    text.num_hidden_layers = blocks
    if text.to_dict().get("layer_types") is not None:
        text.layer_types = text.layer_types[:blocks]
    model = _meta(config, "float32" if kind == "full" else dtype)
    model.requires_grad_(kind == "full")
    if kind == "lora":
        add_adapter(model, PART, rank, rank)
    return model


def _kept(model: PreTrainedModel, kind: str) -> float:
    """Bytes that the backward pass needs for each token.

    Attention's weights grow with the square of the tokens, which fused kernels do not keep: of two lengths, what grows
    with the tokens alone is left.
    """
    short, long = (_saved(model, kind, tokens) / tokens for tokens in (8, 16))
    return 2 * short - long


def _saved(model: PreTrainedModel, kind: str, tokens: int) -> float:
    weights = {p.untyped_storage()._cdata for p in model.parameters()}
    found: dict[int, int] = {}
    alive: list[Tensor] = []  # an address that is free may be given to another

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            found[storage._cdata] = storage.nbytes()
            alive.append(tensor)
        return tensor

    width = model.config.get_text_config().hidden_size
    inputs = torch.zeros(1, tokens, width, dtype=model.dtype, device="meta", requires_grad=True)
    mask = torch.zeros(1, 1, tokens, tokens, dtype=model.dtype, device="meta")
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t),
        speaking(model, PART if kind == "lora" else None),
    ):
        model.base_model(inputs_embeds=inputs, attention_mask=mask, use_cache=False)
    return float(sum(found.values()))
