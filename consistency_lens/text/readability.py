"""Text judged by the frozen model itself, with its adapters off: as language, and in the place that it is about.

Shapes: N rows, S prompt length, T tokens of a text, V vocabulary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..frozen import FrozenLM, Prefix
from ..frozen.columns import last_columns
from ..objectives import masked_mean
from .configuration import ConsistencyLensConfig
from .controls import nll_of_tokens
from .parts.generation import Noise, Words, straight_through_embed, straight_through_log_probability
from .starting.warm_start import Doubt

MISQUOTED = 4.6  # nats: as if a context would hold another token once in a hundred times


def nll_with_gradient(
    frozen: FrozenLM, config: ConsistencyLensConfig, words: Words, logits: Tensor, noise: Noise
) -> Tensor:
    """`- mean_t log M(t_t | prompt, t_<t)`, nats per token, `[N]`; 0 for an empty text.

    The values are those of `controls.nll_after` behind `controls.after_prompt`; a straight-through gradient flows.

    Args:
        frozen: the frozen model.
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


def surprise_in_place(prefix: Prefix, words: Words, quoted: int, doubt: Doubt) -> Tensor:
    """`- mean_t log M(t_t | x_0..x_{P-q}, t_<t)`, `[N]`: a text where it belongs, in its row's own context and in the
    place of the q tokens that it begins with quoting. What the frozen model would not say there is made up.

    Quoted tokens the context itself judges: the right one is no surprise, and a wrong one is more of a surprise than
    M's own words can be, since what it says is false. A general word says nothing false, wherever M knows better: it
    costs at most what a word costs that is just sure enough to be said.

    Args:
        prefix: the contexts.
        words: the texts.
        quoted: q, how many tokens a text quotes at most.
        doubt: which word is general, and how sure the others should be.
    """
    quoted = min(quoted, prefix.input_ids.shape[1] - 1)
    surprise = nll_of_tokens(prefix.shortened(quoted), words)
    general = torch.zeros_like(words.ids, dtype=torch.bool) if doubt.word is None else words.ids == doubt.word
    surprise = torch.where(general, surprise.clamp_max(-math.log(max(doubt.below, 1e-3))), surprise)
    if quoted:
        said, read = words.ids[:, :quoted], prefix.input_ids[:, -quoted:]
        of_quotes = torch.where(general[:, :quoted], surprise[:, :quoted], surprise[:, :quoted] + MISQUOTED)
        surprise = torch.cat([of_quotes.masked_fill(said == read, 0.0), surprise[:, quoted:]], dim=1)
    short = prefix.mask.sum(1) <= quoted  # nothing is left of these
    return masked_mean(surprise, words.mask).masked_fill(short, 0.0)
