"""Tiny random models, one per architecture, built in code: no network, no weights on disk."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from consistency_lens.frozen import FrozenLM

VOCABULARY = 96
_TOKENS = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_LLAMA: dict[str, Any] = _TOKENS | {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "head_dim": 8,
}
_WINDOW = {"sliding_window": 5}
_VISION: dict[str, Any] = {
    "vision_config": {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    },
    "mm_tokens_per_image": 4,
}

# name of the case -> (model_type, configuration)
TINY_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 128} | _TOKENS),
    "gpt_neox": ("gpt_neox", _LLAMA),
    "gpt_neox-serial": ("gpt_neox", _LLAMA | {"use_parallel_residual": False}),
    "llama": ("llama", _LLAMA),
    "mistral": ("mistral", _LLAMA | {"sliding_window": None}),
    "mistral-window": ("mistral", _LLAMA | _WINDOW),
    "qwen2": ("qwen2", _LLAMA),
    "qwen2-window": ("qwen2", _LLAMA | _WINDOW | {"use_sliding_window": True, "max_window_layers": 2}),
    "qwen3": ("qwen3", _LLAMA),
    "qwen3-window": ("qwen3", _LLAMA | _WINDOW | {"use_sliding_window": True, "max_window_layers": 2}),
    "gemma2": ("gemma2", _LLAMA | {"query_pre_attn_scalar": 8, "sliding_window": 4096}),
    "gemma2-window": ("gemma2", _LLAMA | _WINDOW | {"query_pre_attn_scalar": 8}),
    "gemma3": ("gemma3_text", _LLAMA | {"query_pre_attn_scalar": 8, "sliding_window": 4096}),
    "gemma3-window": ("gemma3_text", _LLAMA | _WINDOW | {"query_pre_attn_scalar": 8}),
    "gemma3-vision": ("gemma3", _LLAMA | {"query_pre_attn_scalar": 8, "sliding_window": 4096}),
    "gemma3-vision-window": ("gemma3", _LLAMA | _WINDOW | {"query_pre_attn_scalar": 8}),
    "olmo2": ("olmo2", _LLAMA),
    "phi3": ("phi3", _LLAMA | {"sliding_window": None}),
    "phi3-window": ("phi3", _LLAMA | _WINDOW),
}


def tiny_model(case: str, **overrides: Any) -> PreTrainedModel:
    """A random model in float32; weights are larger than at ordinary initialisation so that logits differ."""
    model_type, settings = TINY_CONFIGS[case]
    torch.manual_seed(0)
    settings = settings | {"initializer_range": 0.2} | overrides
    if model_type == "gemma3":  # the settings are those of the text part
        settings = {"text_config": settings} | _VISION
    config = AutoConfig.for_model(model_type, **settings)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Words w0, w1, ...; `<bos>` in front."""
    words = ["<pad>", "<bos>", "<eos>", "<unk>"] + [f"w{i}" for i in range(VOCABULARY - 4)]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing("<bos> $A", special_tokens=[("<bos>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    )


def tiny_lm(case: str = "llama", **overrides: Any) -> FrozenLM:
    return FrozenLM(tiny_model(case, **overrides), tiny_tokenizer(), model_id=f"tiny-{case}")


@cache
def shared_lm(case: str) -> FrozenLM:
    """The same model for every test that leaves it as it is."""
    return tiny_lm(case)


def padded_batch(lengths: tuple[int, ...] = (12, 7, 1, 9), horizon: int = 0, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random rows of different lengths, padded on the left, with a continuation."""
    generator = torch.Generator().manual_seed(seed)
    width = max(lengths)
    ids = torch.randint(4, VOCABULARY, (len(lengths), width), generator=generator)
    mask = torch.stack([torch.arange(width) >= width - n for n in lengths]).long()
    batch = {"input_ids": ids * mask, "attention_mask": mask}
    if horizon:
        batch["continuation_ids"] = torch.randint(4, VOCABULARY, (len(lengths), horizon), generator=generator)
        batch["continuation_mask"] = torch.ones_like(batch["continuation_ids"])
    return batch
