"""A llama written out in tensors, one row without padding at a time: no hooks, no masks, no transformers code.

Shapes: T tokens of one row, d hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch.nn.functional import silu
from transformers import PreTrainedModel

from consistency_lens.frozen import Edit

# Takes the name of a site and what flows through it [T, d], gives what shall flow on.
Touch = Callable[[str, torch.Tensor], torch.Tensor]


def llama(
    model: PreTrainedModel, embeddings: torch.Tensor, touch: Touch = lambda name, hidden: hidden
) -> torch.Tensor:
    """Logits `[T, V]` of one row from its embeddings `[T, d]`."""
    weights, config = model.state_dict(), model.config
    heads, groups, size = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    tokens = len(embeddings)
    frequency = config.rope_parameters["rope_theta"] ** (-torch.arange(0, size, 2) / size)
    angles = torch.outer(torch.arange(tokens), frequency).repeat(1, 2)

    def norm(hidden: torch.Tensor, name: str) -> torch.Tensor:
        return hidden / (hidden.square().mean(-1, keepdim=True) + config.rms_norm_eps).sqrt() * weights[name]

    def rotate(x: torch.Tensor) -> torch.Tensor:  # [heads, T, size]
        turned = torch.cat([-x[..., size // 2 :], x[..., : size // 2]], dim=-1)
        return x * angles.cos() + turned * angles.sin()

    def split(x: torch.Tensor) -> torch.Tensor:
        return x.reshape(tokens, -1, size).transpose(0, 1)

    later = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
    hidden = touch("embed", embeddings)
    for i in range(config.num_hidden_layers):
        at = f"model.layers.{i}."
        hidden = touch(f"resid_pre.{i}", hidden)
        x = norm(hidden, at + "input_layernorm.weight")
        q, k, v = (split(x @ weights[f"{at}self_attn.{part}_proj.weight"].T) for part in "qkv")
        q, k, v = rotate(q), *(y.repeat_interleave(heads // groups, 0) for y in (rotate(k), v))
        scores = (q @ k.transpose(1, 2) / size**0.5).masked_fill(later, float("-inf"))
        mixed = (scores.softmax(-1) @ v).transpose(0, 1).reshape(tokens, -1)
        hidden = hidden + touch(f"attn_out.{i}", mixed @ weights[at + "self_attn.o_proj.weight"].T)
        hidden = touch(f"resid_mid.{i}", hidden)
        x = touch(f"mlp_in.{i}", norm(hidden, at + "post_attention_layernorm.weight"))
        gated = silu(x @ weights[at + "mlp.gate_proj.weight"].T) * (x @ weights[at + "mlp.up_proj.weight"].T)
        hidden = hidden + touch(f"mlp_out.{i}", gated @ weights[at + "mlp.down_proj.weight"].T)
        hidden = touch(f"resid_post.{i}", hidden)
    return norm(hidden, "model.norm.weight") @ weights["lm_head.weight"].T


def own_rows(batch: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    """The rows without their padding."""
    return [ids[mask.bool()] for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]


def llama_rows(
    model: PreTrainedModel, batch: Mapping[str, torch.Tensor], edits: Sequence[Edit] = ()
) -> list[torch.Tensor]:
    """Logits `[T, V]` of each row with `replace` and `add` edits written by plain assignment, row by row.

    Edits name their site by number, and each column in a `[B, K]` tensor, or None for all of them.
    """
    logits = []
    for row, ids in enumerate(own_rows(batch)):
        padding = batch["input_ids"].shape[1] - len(ids)

        def touch(name: str, hidden: torch.Tensor, row: int = row, padding: int = padding) -> torch.Tensor:
            for edit in edits:
                if str(edit.site) != name:
                    continue
                columns = range(padding, padding + len(hidden)) if edit.positions is None else edit.positions[row]
                hidden = hidden.clone()
                for nth, column in enumerate(columns):
                    value = edit.value[row][column if edit.positions is None else nth]
                    old = hidden[column - padding] if edit.mode == "add" else 0
                    hidden[column - padding] = old + value
            return hidden

        logits.append(llama(model, model.get_input_embeddings().weight[ids], touch))
    return logits
