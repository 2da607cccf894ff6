"""`PagedLlama`: a Llama that reads page by page, and turns a page with one activation in hand.

In its lower layers a token sees its own page alone, and the last token of a page, its seal, gathers what stands there.
In its upper layers a token sees its own page and the seal of the page before; a seal sees nothing but itself. So the
output of the last lower layer at a seal is all that the next page knows of this one, and nothing flows into it later.

Shapes: B rows, Q tokens of a pass, C columns so far.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, DynamicCache, LlamaConfig, LlamaForCausalLM
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.llama.modeling_llama import LlamaModel

from consistency_lens.errors import BadInput


class PagedLlamaConfig(LlamaConfig):
    """A Llama's, and where its pages end.

    Args:
        page_length: tokens of a page; what fills up a row on the left does not count.
        lower_layers: how many layers look at the own page alone.
    """

    model_type = "paged_llama"

    def __init__(self, page_length: int = 48, lower_layers: int = 1, **given: Any) -> None:
        self.page_length, self.lower_layers = page_length, lower_layers
        super().__init__(**given)


def sees(positions: Tensor, page_length: int, queries: int) -> tuple[Tensor, Tensor]:
    """Whether the last tokens see the others, `[B, Q, C]`: in the lower layers, and in the upper ones.

    Args:
        positions: `[B, C]` of the columns.
        page_length: tokens of a page.
        queries: Q.
    """
    page, seal = positions // page_length, positions % page_length == page_length - 1
    before = page.unsqueeze(1) - page[:, -queries:].unsqueeze(2)
    own = torch.eye(positions.shape[1], device=positions.device)[-queries:].bool()
    lower = before == 0
    upper = (lower | ((before == -1) & seal.unsqueeze(1))) & ~seal[:, -queries:].unsqueeze(2) | own
    return lower, upper


class PagedLlamaModel(LlamaModel):
    """The blocks of a Llama, each with the mask of its half."""

    config_class = PagedLlamaConfig
    _supports_flash_attn = False
    _supports_flex_attn = False

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: DynamicCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        page_length: int | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """As a Llama's; `attention_mask` says which columns are tokens, `[B, C]`, those in the cache included. Where
        nothing is in a cache, it may as well be what is added to attention, `[B, 1, Q, Q]`: pages hide what they hide
        besides. Training may ask for shorter pages than those of the configuration."""
        hidden = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        rows, queries = hidden.shape[:2]
        columns = queries + (past_key_values.get_seq_length() if past_key_values is not None else 0)
        if attention_mask is None:
            attention_mask = torch.ones(rows, columns, dtype=torch.long, device=hidden.device)
        if attention_mask.dim() == 4 and columns == queries:
            seen = attention_mask[:, 0] >= 0
            places = torch.arange(columns, device=hidden.device).expand(rows, -1)
        elif attention_mask.dim() == 2:
            seen = attention_mask.bool().unsqueeze(1)
            places = (attention_mask.long().cumsum(1) - 1).clamp_min(0)
        else:
            fix = "Say which columns are tokens; which of them see each other is settled by the pages."
            raise BadInput("attention_mask", f"of {attention_mask.dim()} dimensions", fix)
        if position_ids is None:
            position_ids = places[:, -queries:]
        causal = torch.ones(queries, columns, dtype=torch.bool, device=hidden.device).tril(columns - queries)
        allowed = causal & seen
        of_halves = sees(places, page_length or self.config.page_length, queries)
        masks = [self._added(each & allowed, hidden) for each in of_halves]
        position_embeddings = self.rotary_emb(hidden, position_ids=position_ids)
        for number, layer in enumerate(self.layers):
            hidden = layer(
                hidden,
                attention_mask=masks[number >= self.config.lower_layers],
                position_embeddings=position_embeddings,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=use_cache,
                **kwargs,
            )
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden), past_key_values=past_key_values)

    @staticmethod
    def _added(visible: Tensor, like: Tensor) -> Tensor:
        """What is added to the attention logits, `[B, 1, Q, C]`."""
        hidden = torch.zeros(visible.shape, dtype=like.dtype, device=like.device)
        return hidden.masked_fill(~visible, torch.finfo(like.dtype).min).unsqueeze(1)


class PagedLlamaForCausalLM(LlamaForCausalLM):
    """A Llama with its head; only the blocks differ."""

    config_class = PagedLlamaConfig
    _supports_flash_attn = False
    _supports_flex_attn = False

    def __init__(self, config: PagedLlamaConfig) -> None:
        super().__init__(config)
        self.model = PagedLlamaModel(config)
        self.post_init()


AutoConfig.register(PagedLlamaConfig.model_type, PagedLlamaConfig)
AutoModel.register(PagedLlamaConfig, PagedLlamaModel)
AutoModelForCausalLM.register(PagedLlamaConfig, PagedLlamaForCausalLM)
