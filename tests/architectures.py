"""A tiny random model of every `model_type` that transformers knows as a causal LM, built in code."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

MODEL_TYPES = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
LARGEST = 20_000_000  # weights; what is larger at these sizes has dimensions of its own that nothing here names

# Every name under which some configuration keeps a size; a configuration takes those that it has.
_WIDTHS = dict.fromkeys(["hidden_size", "d_model", "n_embd", "word_embed_proj_dim", "attention_hidden_size"], 32)
_INNER = dict.fromkeys(["intermediate_size", "ffn_dim", "n_inner", "decoder_ffn_dim", "encoder_ffn_dim"], 48)
_DEPTHS = dict.fromkeys(
    ["num_hidden_layers", "num_layers", "n_layer", "n_layers", "decoder_layers", "encoder_layers"], 3
)
_HEADS = dict.fromkeys(
    ["num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads", "encoder_attention_heads"], 4
)
_SIZES = {
    **_WIDTHS,
    **_INNER,
    **_DEPTHS,
    **_HEADS,
    **dict.fromkeys(["num_key_value_heads", "num_kv_heads", "num_experts_per_tok"], 2),
    **dict.fromkeys(["moe_intermediate_size", "shared_expert_intermediate_size"], 16),
    **dict.fromkeys(["num_local_experts", "num_experts", "n_routed_experts"], 4),
    **dict.fromkeys(["n_shared_experts", "n_group", "topk_group", "first_k_dense_replace"], 1),
    **dict.fromkeys(["kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "v_head_dim"], 8),
    **dict.fromkeys(["qk_rope_head_dim", "rotary_dim", "dt_rank", "state_size", "time_step_rank", "mamba_d_state"], 4),
    **dict.fromkeys(["max_position_embeddings", "n_positions"], 64),
    "head_dim": 8,
    "vocab_size": 96,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "is_decoder": True,
}


# Sizes that do not go together everywhere: what is tried in turn until a model of the type computes something.
_TRIES: list[dict[str, object]] = [
    {},
    {"num_key_value_heads": 4},
    {"num_key_value_heads": 4, "head_dim": 4},
    {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_expand": 2},
    {"head_dim": None},
    {"num_key_value_heads": 4} | dict.fromkeys(["head_dim", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"]),
]


def tiny_config(model_type: str, other: dict[str, object]) -> PreTrainedConfig:
    """The configuration of a model type with every size that it has made small; None leaves a size as it comes."""
    has = AutoConfig.for_model(model_type).to_dict()
    known = {name: size for name, size in (_SIZES | other).items() if name in has and size is not None}
    return AutoConfig.for_model(model_type, **known)


def tiny_causal_lm(model_type: str) -> PreTrainedModel | str:
    """A random model in float32, or why there is none at these sizes."""
    reasons = []
    for other in _TRIES:
        torch.manual_seed(0)
        # What a configuration makes of sizes it was not made for cannot be foreseen: the reason is what gets listed.
        try:
            config = tiny_config(model_type, other)
            with torch.device("meta"):
                count = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
            if count > LARGEST:
                reasons.append(f"{count / 1e6:.0f}M weights at the smallest sizes")
                continue
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
            with torch.no_grad():
                model(input_ids=torch.arange(6).unsqueeze(0), use_cache=False)
            return model
        except Exception as error:
            reasons.append(f"{type(error).__name__}: {error}".replace("\n", " ")[-100:])
    return reasons[0]
