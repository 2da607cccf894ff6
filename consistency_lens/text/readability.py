"""Text judged by the subject itself, with its adapters off, and with a gradient to the choice of words.

Shapes: N rows, S prompt length, T tokens of a text, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..frozen import FrozenLM
from ..frozen.columns import last_columns
from ..objectives import masked_mean
from .configuration import ConsistencyLensConfig
from .generation import Noise, Words, straight_through_embed, straight_through_log_probability


def nll_with_gradient(
    frozen: FrozenLM, config: ConsistencyLensConfig, words: Words, logits: Tensor, noise: Noise
) -> Tensor:
    """`- mean_t log M(t_t | prompt, t_<t)`, nats per token, `[N]`; 0 for an empty text.

    The values are those of `controls.nll_after` behind `controls.after_prompt`; a straight-through gradient flows.

    Args:
        frozen: the subject.
        config: of the lens.
        words: the texts.
        logits: what the words were chosen from.
        noise: of the choice.
    """
    prompt = [i for i in config.prompt_ids or [] if i != config.placeholder_id]
    table = frozen.model.get_input_embeddings()
    before = torch.tensor([prompt], device=frozen.device).expand(len(words), -1)
    embedded, chosen = table(words.ids), straight_through_embed(logits, words.ids, table.weight, noise)
    # Some embeddings give out their table times a constant.
    embedded = embedded.detach() + (chosen - chosen.detach()) * (embedded.norm() / chosen.norm()).detach()
    inputs = torch.cat([table(before), embedded[:, :-1].to(frozen.dtype)], dim=1)
    kept = last_columns(words.ids.shape[1], inputs.shape[1], frozen.device)
    said = frozen.model(inputs_embeds=inputs, use_cache=False, logits_to_keep=kept).logits
    return masked_mean(-straight_through_log_probability(logits, words.ids, said, noise), words.mask)
