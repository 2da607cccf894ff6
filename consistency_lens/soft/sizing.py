"""What a wire takes, by arithmetic: memory of its training, on configurations alone, and operations of its use.

Adapters read and write float32; a receiver has no gradients of its own, only of what passes through it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from ..errors import BadInput
from ..frozen.anatomy.parts import blocks_of

TRAINED = 16  # bytes of a number that Adam trains: itself, its gradient, two moments, in float32
# Bytes that a block keeps of a token for the backward pass, over its hidden size: its inputs, both norms, queries,
# keys, values and what attention gives, and the three tensors of an MLP of four times the width, in 16 bits.
KEPT = 2 * (8 + 3 * 4)


def memory_of(
    models: Mapping[str, PretrainedConfig],
    layers: int,
    rows: int,
    passage_tokens: int,
    other_tokens: int,
    slots: int,
    d_z: int,
    lora_rank: int | None = None,
    bytes_per_weight: int = 2,
    sequential: bool = False,
    compressor: PretrainedConfig | None = None,
) -> dict[str, float]:
    """Gigabytes (1e9 bytes) of each part, and of all that lies on the device.

    Args:
        models: configurations of the receivers by name.
        layers: how many layers the compressor has of the model that it starts from.
        rows: in a pass.
        passage_tokens: of a passage.
        other_tokens: of prompt and answer.
        slots: vectors of a code.
        d_z: size of a vector.
        lora_rank: of the compressor's adapters; None where it is trained whole.
        bytes_per_weight: of a receiver.
        sequential: only one receiver lies there at a time: the largest counts.
        compressor: configuration of the model that the compressor starts from. Default: the first receiver's.
    """
    if layers < 1:
        raise BadInput("layers", layers, "Use 1 or more.")
    found, receivers = dict[str, float](), dict[str, float]()
    widest, vocabulary = 0.0, 0
    source = next(iter(models.values())) if compressor is None else compressor
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(source)
    width, blocks = source.hidden_size, blocks_of(model)[:layers]
    own = _numbers(model.get_input_embeddings()) + sum(_numbers(block) for block in blocks)
    pooling = 4 * width * width + width * (d_z + 1)
    frozen, trained = (0, own) if lora_rank is None else (own, _of_adapters(blocks, lora_rank))
    found["compressor"] = 4 * frozen + TRAINED * (trained + pooling)
    found["activations of the compressor"] = 2 * KEPT * rows * passage_tokens * width * layers  # in float32
    for name, config in models.items():
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        width, blocks = config.hidden_size, blocks_of(model)
        receivers[name] = bytes_per_weight * _numbers(model)
        found[f"adapter of {name}"] = TRAINED * (width * (d_z + 1) + width * (width + 1))
        read = rows * (slots + other_tokens)
        widest = max(widest, KEPT * read * width * len(blocks))
        vocabulary = max(vocabulary, config.vocab_size)
    found |= {"the largest receiver": max(receivers.values())} if sequential else receivers
    found["activations of a receiver"] = widest
    found["logits"] = 4 * 3 * rows * other_tokens * vocabulary  # themselves, their gradient, the teacher's
    return {name: value / 1e9 for name, value in {**found, "all": sum(found.values())}.items()}


def operations_of(weights: int, config: PretrainedConfig, tokens: Tensor) -> Tensor:
    """Floating-point operations of transformer blocks over so many tokens, `[B]`: two for each weight and token, and
    four for each pair of tokens and coordinate of attention, as if none of them were masked.

    Args:
        weights: numbers in the matrices of the blocks.
        config: of the model's text part.
        tokens: of each row, `[B]`.
    """
    heads, _, size = _heads_of(config)
    width = heads * size
    tokens = tokens.double()
    return 2 * weights * tokens + 4 * config.num_hidden_layers * width * tokens**2


def prefill_of(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    """The same of a causal LM up to the logits of the first token that it writes."""
    head = model.get_output_embeddings().weight.numel()
    return operations_of(matrices_of(blocks_of(model)), model.config.get_text_config(), tokens) + 2 * head


def cache_of(config: PretrainedConfig, tokens: Tensor, bytes_per_number: int = 2) -> Tensor:
    """Bytes of the key-value cache of so many tokens, `[B]`. A layer of a sliding window keeps no more than that.

    Args:
        config: of the model's text part.
        tokens: of each row, `[B]`.
        bytes_per_number: of a key or a value.
    """
    said, (_, heads, size) = config.to_dict(), _heads_of(config)
    kinds = said.get("layer_types") or [""] * config.num_hidden_layers
    window, found = said.get("sliding_window"), torch.zeros_like(tokens).double()
    for kind in kinds[: config.num_hidden_layers]:
        slides = window and kind == "sliding_attention"
        found += tokens.clamp(max=window) if slides else tokens  # type: ignore[call-overload]
    return 2 * bytes_per_number * heads * size * found


def matrices_of(module: torch.nn.Module) -> int:
    """Numbers in the matrices of a module."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.dim() == 2)


def _heads_of(config: PretrainedConfig) -> tuple[int, int, int]:
    """How many heads a model has, how many of keys and values, and their size; 0 where it has no attention."""
    said = config.to_dict()
    names = config.attribute_map  # GPT-2 calls them n_head
    heads = said.get("num_attention_heads") or said.get(names.get("num_attention_heads", "")) or 0
    size = said.get("head_dim") or config.hidden_size // max(heads, 1)
    return heads, said.get("num_key_value_heads") or heads, size


def _numbers(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _of_adapters(blocks: Any, rank: int) -> int:
    """Two matrices beside each linear layer."""
    layers = (module for block in blocks for module in block.modules() if isinstance(module, torch.nn.Linear))
    return sum(rank * (layer.in_features + layer.out_features) for layer in layers)
