"""`Compressor`: the tokens of a passage -> a few vectors.

    Z = D (mean of a window's embeddings + O · attention(query of the window, all tokens))

The queries are means of what the language model makes of the window's tokens, or learned. With `start="lm"`, O starts
at 0: at one token per vector, the code then *is* the embeddings of the passage, which a frozen model can read.

Shapes: B rows, P tokens of the longest passage, M vectors, d hidden size of the compressor, d_z size of a vector.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, LlamaConfig, PreTrainedModel

from ...base.adapters import add_adapter, is_adapted, keep_on
from ...errors import BadInput
from ...frozen import FrozenLM
from ...frozen.anatomy.parts import longest_context, truncate
from ...frozen.loading.load import in_float32
from ...frozen.loading.whole import refusing_damage
from ..configuration import LatentWireConfig
from ..sizing import matrices_of, operations_of
from .windows import counts_of, means_over, window_of

BYTES = 256
ADAPTER = "compressor"
_LONGEST_IN_BYTES = 1 << 16


class Compressor(nn.Module):
    """
    Args:
        config: of the lens.
        lm: what reads the passage; its embeddings and its last hidden states are used.
    """

    def __init__(self, config: LatentWireConfig, lm: PreTrainedModel) -> None:
        super().__init__()
        self.config, self.lm = config, lm
        if config.compressor_lora_rank is not None and not is_adapted(lm):
            lm.requires_grad_(False)
            add_adapter(lm, ADAPTER, config.compressor_lora_rank, 2 * config.compressor_lora_rank, headless=True)
            keep_on(lm, ADAPTER)
        width = lm.config.hidden_size
        self.heads = math.gcd(width, lm.config.num_attention_heads)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.down = nn.Linear(width, config.d_z)
        learned = config.pooling == "learned"
        self.queries = nn.Parameter(torch.zeros(config.slots or 1, width)) if learned else None

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Normal weights of variance 1/d. O is 0 where the embeddings are a code that works already."""
        generator = torch.Generator().manual_seed(seed)
        for module in (self.query, self.key, self.value, self.out, self.down):
            drawn = torch.empty(module.weight.shape).normal_(0, module.in_features**-0.5, generator=generator)
            module.weight.copy_(drawn)
        self.down.bias.zero_()
        if self.queries is not None:
            self.queries.copy_(torch.empty(self.queries.shape).normal_(generator=generator))
        elif self.config.start == "lm":
            self.out.weight.zero_()

    def forward(
        self, ids: Tensor, mask: Tensor, ratio: float | None = None, counts: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Vectors `[B, M, d_z]` and which of them each row has, `[B, M]`.

        Args:
            ids: `[B, P]`, padded on the right.
            mask: `[B, P]`, the tokens that a row has.
            ratio: tokens for each vector, in the place of the configuration's rate.
            counts: how many vectors each row has, `[B]`, in the place of any rate.
        """
        self._require_tokens(ids, mask)
        embedded = self.lm.get_input_embeddings()(ids)
        read = functional.rms_norm(self._read(embedded, mask), embedded.shape[-1:])
        if self.queries is not None:
            if ratio is not None or counts is not None:
                fix = "Leave it out: with learned queries, the number of vectors is fixed."
                name, given = ("ratio", ratio) if counts is None else ("counts", counts.tolist())
                raise BadInput(name, given, fix)
            queries = self.queries.expand(len(ids), -1, -1)
            there = mask.new_ones(queries.shape[:2]).bool()
            return self.down(self._attend(queries, read, mask)), there
        lengths = mask.sum(1)
        if counts is None:
            own = (self.config.slots, self.config.ratio)
            counts = counts_of(lengths, *own if ratio is None else (None, ratio))
        count = int(counts.max())
        windows = window_of(lengths, counts, ids.shape[1])
        there = torch.arange(count, device=ids.device) < counts[:, None]
        mean = means_over(embedded / self.config.compressor_rms, windows, mask, count)
        attended = self._attend(means_over(read, windows, mask, count), read, mask)
        return self.down(mean + attended) * there[..., None], there

    def _read(self, embedded: Tensor, mask: Tensor) -> Tensor:
        """Last hidden states of the language model, `[B, P, d]`."""
        seen: Any = mask
        if not self.config.causal:  # a mask of four dimensions is taken as it is
            seen = torch.zeros(embedded.shape[:2], dtype=embedded.dtype, device=embedded.device)
            seen = seen.masked_fill(~mask.bool(), torch.finfo(embedded.dtype).min)
            seen = seen[:, None, None].expand(-1, 1, embedded.shape[1], -1)
        return self.lm(inputs_embeds=embedded, attention_mask=seen, use_cache=False).last_hidden_state

    def _attend(self, queries: Tensor, read: Tensor, mask: Tensor) -> Tensor:
        """O · attention of `[B, M, d]` over all tokens of the passage, `[B, M, d]`."""
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, x in ((self.query, queries), (self.key, read), (self.value, read))
        )
        found = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask.bool()[:, None, None])
        return self.out(found.transpose(1, 2).flatten(2))

    def operations(self, tokens: Tensor, vectors: Tensor) -> Tensor:
        """Floating-point operations for passages of so many tokens and codes of so many vectors, `[B]` each."""
        width, words = self.lm.config.hidden_size, self.lm.get_input_embeddings()
        read = operations_of(matrices_of(self.lm) - matrices_of(words), self.lm.config, tokens)
        projected = 4 * width**2 * (tokens + vectors) + 2 * self.down.weight.numel() * vectors
        return read + projected + 4 * width * tokens.double() * vectors

    def _require_tokens(self, ids: Tensor, mask: Tensor) -> None:
        longest, limit = ids.shape[1], longest_context(self.lm.config)
        if longest > limit:
            fix = "Cut passages with max_passage_tokens, or make them of fewer words."
            raise BadInput("passage", f"{longest} tokens", fix, why=f"the compressor takes at most {limit}")
        if not longest or not bool(mask.any(1).all()):
            raise BadInput("passage", "", "Leave the row out.", why="a passage without a token has no code")

    def train(self, mode: bool = True) -> Compressor:
        """The language model stays without dropout."""
        super().train(mode)
        self.lm.eval()
        return self


def first_layers(frozen: FrozenLM, layers: int) -> PreTrainedModel:
    """A trainable copy of a model's first layers in float32, without its head."""
    if not 1 <= layers <= frozen.num_layers:
        raise BadInput("layers", layers, f"Use 1 to {frozen.num_layers}, the layers of {frozen.model_id}.")
    if frozen.quantization != "none":
        raise BadInput("start", "lm", "Load the model without quantization.", why="packed weights cannot be trained")
    if frozen.model.config is not frozen.config:
        why = f"{frozen.model_id} has parts beside its language model"
        raise BadInput("start", "lm", "Start from a model of text alone.", why=why)
    lm = in_float32(truncate(copy.deepcopy(frozen.model), layers)).base_model
    return lm.requires_grad_(True).eval()


def byte_layers(layers: int, width: int, heads: int) -> dict[str, Any]:
    """The configuration of a new transformer over bytes."""
    if layers < 1 or heads < 1 or width % (2 * heads):
        shown = {"layers": layers, "width": width, "heads": heads}
        raise BadInput("byte", shown, "Give at least one layer, and a width that twice the heads divide.")
    return LlamaConfig(
        vocab_size=BYTES,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=_LONGEST_IN_BYTES,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    ).to_dict()


def blank(config: LatentWireConfig) -> PreTrainedModel:
    """The compressor's language model with the weights of its architecture's own start."""
    with refusing_damage(
        "config.json", "lens", "Save or download it again: what it says of its compressor is damaged."
    ):
        # Without what names code of its own: transformers would ask whether to run that.
        fields = {name: value for name, value in (config.compressor or {}).items() if name != "auto_map"}
        made: PreTrainedModel = AutoModel.from_config(
            AutoConfig.for_model(**fields), dtype=torch.float32, trust_remote_code=False
        )
        # What reads a passage has all of these; whatever else a configuration may name is refused here.
        sizes = (made.config.hidden_size, made.config.num_attention_heads)
        if made.get_input_embeddings().weight.shape[1] != sizes[0]:
            raise ValueError("its embeddings have another width than its blocks")
        return made.eval()
