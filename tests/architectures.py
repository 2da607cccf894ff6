"""A tiny random model of every `model_type` that transformers knows as a causal LM, built in code.

`PYTHONPATH=tests python tests/architectures.py` writes docs/architectures.md.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import torch
from tiny import tiny_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from consistency_lens.errors import BadInput
from consistency_lens.frozen import FrozenLM
from consistency_lens.frozen.anatomy.parts import PARALLEL, locate, proven_of

BOTH = ("attn_out", "mlp_in", "mlp_out")  # what a block of attention and MLP has, in parallel or in turn
PAGE = """# Architectures

Any causal LM of transformers whose blocks lie in one list can be read and edited. `FrozenLM` finds the blocks, and a
short pass proves where attention and the MLP write: their outputs have to explain what a block adds to the residual
stream. What is proven is offered (`FrozenLM(...).sites` lists it), anything else is refused with the reason.

Below is every causal `model_type` of the transformers that we test with, as found on a tiny random model of it. *all*:
`embed`, `resid_pre.L`, `attn_out.L`, `mlp_in.L`, `mlp_out.L`, `resid_post.L`. *resid*: `embed` where its vectors have
the size of the residual stream, `resid_pre.L` and `resid_post.L`. `resid_mid.L`, the residual stream between attention
and the MLP's norm, has a column of its own: there is none where the two run in *parallel*. Lenses of text need the
*single token* swap, which is compared with the whole pass before its first use; a model that changes a state in place
with each token, as state-space models do, is read and edited by whole passes.

| model_type | sites | resid_mid | swap | what is missing |
|---|---|---|---|---|
{rows}

No tiny model of these could be built from sizes alone, so that nothing is known about them until they are loaded:

{unbuilt}
"""
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
    "mamba_chunk_size": 8,
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
            reasons.append(" ".join(f"{type(error).__name__}: {error}".split())[:140])
    return reasons[0]


def table() -> str:
    """The page of the docs: what each model type offers, as measured on its tiny model."""
    rows, unbuilt = [], []
    for model_type in MODEL_TYPES:
        model = tiny_causal_lm(model_type)
        if isinstance(model, str):
            unbuilt.append(f"- `{model_type}`: {model}")
            continue
        try:
            lm = FrozenLM(model, tiny_tokenizer())
        except BadInput as refused:
            rows.append(
                f"| `{model_type}` | refused | refused | refused | {re.sub(' by [0-9.e+-]+$', '', refused.why)} |"
            )
            continue
        rows.append(f"| `{model_type}` | {offers(lm)} | {middle(lm)} | {swap(lm)} | {remark(lm)} |")
    return PAGE.format(rows="\n".join(rows), unbuilt="\n".join(unbuilt))


def offers(lm: FrozenLM) -> str:
    """Which stages can be read and edited at each layer, in words."""
    count = Counter(site.partition(".")[0] for site in lm.sites)
    everywhere = [stage for stage in BOTH if count[stage] == lm.num_layers]
    if len(everywhere) == len(BOTH):
        return "all"
    return "resid" + "".join(f", {stage} of some layers" for stage in BOTH if 0 < count[stage] < lm.num_layers)


def middle(lm: FrozenLM) -> str:
    """Whether the stream between attention and MLP is offered, or that there is none."""
    count = sum(site.startswith("resid_mid.") for site in lm.sites)
    if count:
        return "yes" if count == lm.num_layers else "some layers"
    try:
        locate(lm.model, lm.site("resid_mid.0"))
    except BadInput as refused:
        return "parallel" if PARALLEL in refused.why else "no"
    raise AssertionError("a site that is not offered is found")


def swap(lm: FrozenLM) -> str:
    """Whether the single-token swap serves, or whole passes alone."""
    try:
        lm.prefix({"input_ids": torch.full((1, 4), 5)})
    except BadInput:
        return "whole passes"
    return "single token"


def remark(lm: FrozenLM) -> str:
    """Why a stage is missing, without the numbers, which differ between machines in their last digits."""
    reasons = [why for block in proven_of(lm.model) for why in block.refused.values() if why != PARALLEL]
    return "" if not reasons else re.sub(r"leaves [\d.e+-]+ of", "leaves part of", reasons[0])


if __name__ == "__main__":
    Path("docs/architectures.md").write_text(table())
