"""Models of known sizes with random weights, built in code: nothing is downloaded."""

from __future__ import annotations

import gc
import tempfile
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedTokenizerFast

from consistency_lens.frozen import FrozenLM

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SIZES: dict[str, tuple[str, dict[str, Any]]] = {
    "pilot": (
        "llama",
        {"vocab_size": 512, "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 6}
        | {"num_attention_heads": 4, "num_key_value_heads": 4},
    ),
    "mid": (
        "llama",
        {"vocab_size": 32000, "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12}
        | {"num_attention_heads": 12, "num_key_value_heads": 12},
    ),
    "gpt2": ("gpt2", {}),
    "qwen3-0.6b": (
        "qwen3",
        {"vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28}
        | {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": True},
    ),
    "llama-3.1-8b": (
        "llama",
        {"vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32}
        | {"num_attention_heads": 32, "num_key_value_heads": 8},
    ),
}


def config_of(size: str, positions: int) -> PreTrainedConfig:
    model_type, settings = SIZES[size]
    longest = {"n_positions" if model_type == "gpt2" else "max_position_embeddings": positions}
    return AutoConfig.for_model(model_type, **(settings | longest))


def random_lm(
    size: str, positions: int, dtype: str = "float32", device: str = "cpu", quantization: str = "none"
) -> FrozenLM:
    """A model of one of `SIZES` for contexts of up to `positions` tokens, whose tokens are the words w0, w1, ...

    Args:
        quantization: as `FrozenLM.from_pretrained`, through a folder on disk that takes the size of the plain weights.
    """
    frozen = _plain(size, positions, dtype, device)
    if quantization == "none":
        return frozen
    with tempfile.TemporaryDirectory() as folder:
        frozen.model.save_pretrained(folder)
        frozen.tokenizer.save_pretrained(folder)
        del frozen
        gc.collect()
        return FrozenLM.from_pretrained(folder, dtype=dtype, quantization=quantization, device_map={"": device})


def _plain(size: str, positions: int, dtype: str, device: str) -> FrozenLM:
    config = config_of(size, positions)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=DTYPES[dtype])
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(config.vocab_size)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0", pad_token="w0")
    return FrozenLM(model, tokenizer, f"random {size}", "random")
