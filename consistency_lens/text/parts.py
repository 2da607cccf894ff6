"""The two parts of the lens: `LensDecoder` writes words from an activation, `LensEncoder` reads them back.

Shapes: N rows, S prompt length, T tokens of a text, V vocabulary, d hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache, PreTrainedModel

from ..base.adapters import adapter_parameters, enable_checkpointing, speaking
from ..base.fidelity import only_site
from ..errors import BadInput
from ..frozen import Site
from ..frozen.hooks import Write, editing, reading
from .configuration import ConsistencyLensConfig
from .generation import Noise, Words, roll_out, straight_through_embed

_RESIDUAL_SITE = Site("resid_post", 1)


class LensPart(PreTrainedModel):
    """A language model and a map between it and the subject's activations.

    Args:
        config: of the lens.
        lm: the language model; its own clone, or the subject itself.
        adapter: the adapter under which it runs, where the weights are the subject's.
        trainable: `full`, `lora` or `projections`.
    """

    config_class = ConsistencyLensConfig
    config: ConsistencyLensConfig
    base_model_prefix = ""
    supports_gradient_checkpointing = True

    def __init__(self, config: ConsistencyLensConfig, lm: PreTrainedModel, adapter: str, trainable: str) -> None:
        super().__init__(config)
        self.lm, self.trainable = lm, trainable
        self.adapter = adapter if trainable == "lora" else None
        self.checkpointing = False
        self.map = nn.Linear(config.hidden_size, config.hidden_size)
        with torch.no_grad():
            self.map.weight.copy_(torch.eye(config.hidden_size))
            self.map.bias.zero_()
        if trainable == "full":  # otherwise it is the subject, frozen, maybe with the other part's adapter on it
            lm.requires_grad_(True)

    @contextmanager
    def working(self, learning: bool = False) -> Iterator[None]:
        """The state in which this part's language model runs; `learning` where a backward pass will follow."""
        with speaking(self.lm, self.adapter, self.checkpointing and learning and torch.is_grad_enabled()):
            yield

    def checkpoint_activations(self) -> None:
        """Recompute blocks in the backward pass instead of keeping what they made."""
        enable_checkpointing(self.lm)
        self.checkpointing = True

    def own_parameters(self) -> dict[str, nn.Parameter]:
        """What belongs to this part of the language model, by name; frozen ones too."""
        match self.trainable:
            case "full":
                return dict(self.lm.named_parameters())
            case "lora":
                assert self.adapter is not None
                return adapter_parameters(self.lm, self.adapter)
            case _:
                return {}

    def train(self, mode: bool = True) -> LensPart:
        """Train mode would turn off the key-value cache and turn on dropout; the language model never needs it."""
        self.training = mode
        self.map.train(mode)
        return self

    @property
    def table(self) -> Tensor:
        """Embeddings of the tokens, `[V, d]`."""
        return self.lm.get_input_embeddings().weight

    def embed(self, ids: Tensor) -> Tensor:
        return self.lm.get_input_embeddings()(ids)

    def embed_choice(self, logits: Tensor, ids: Tensor, noise: Noise) -> Tensor:
        """The same `[N, T, d]`, with the straight-through gradient to the logits that the tokens were chosen from."""
        embedded = straight_through_embed(logits, ids, self.table, noise)
        # Some embeddings (Gemma's) give out their table times a constant.
        with torch.no_grad():
            scale = self.embed(ids[:1, :1]).norm() / embedded[:1, :1].norm().clamp_min(1e-12)
        return embedded * scale


class LensDecoder(LensPart):
    """Activation -> words: the language model goes on after a prompt in which the activation stands."""

    def __init__(self, config: ConsistencyLensConfig, lm: PreTrainedModel, trainable: str | None = None) -> None:
        super().__init__(config, lm, "decoder", trainable or config.trainable)

    def _prompt(self, activations: Tensor, text: Tensor | None = None) -> tuple[Tensor, list[Write]]:
        """Embeddings `[N, S, d]` of the prompt with the activation in it, and what to write further up.

        With the ids `[N, k]` of a text, its embeddings are behind them. They are looked up together: each look-up has
        a gradient of the size of the whole table.
        """
        ids = torch.tensor([self.config.prompt_ids], device=activations.device).expand(len(activations), -1)
        here = ids == self.config.placeholder_id
        if not bool((here.sum(1) == 1).all()):
            raise BadInput("prompt_ids", self.config.prompt_ids, "The placeholder has to occur exactly once per row.")
        if text is not None:
            ids, here = torch.cat([ids, text], dim=1), F.pad(here, (0, text.shape[1]))
        vector = self.map(activations.to(self.map.weight.dtype) / self.config.activation_norm)
        embedded = self.embed(ids)
        if self.config.injection == "residual":
            columns = here.long().argmax(1, keepdim=True)
            return embedded, [Write(_RESIDUAL_SITE, vector.unsqueeze(1), columns, add=True, match=True)]
        vector = F.normalize(vector, dim=-1) * self.config.embedding_norm
        return torch.where(here.unsqueeze(-1), vector.unsqueeze(1).to(embedded.dtype), embedded), []

    def _allowed(self, logits: Tensor, first: int = 0) -> Tensor:
        """`[N, T, V]` logits without what is never written: special tokens, and an end before the first word."""
        barred = torch.zeros(logits.shape[1:], dtype=torch.bool, device=logits.device)
        barred[:, self.config.never_ids] = True
        if first == 0:
            barred[0, self.config.stop_id] = True
        return logits.float().masked_fill(barred, torch.finfo(torch.float32).min)

    def _steps(self, activations: Tensor) -> Callable[[Tensor | None], Tensor]:
        """A function from the embeddings of the last choice (None at first) to the next logits `[N, V]`."""
        cache = DynamicCache(config=self.lm.config.get_text_config())
        count = 0

        def step(embedded: Tensor | None) -> Tensor:
            nonlocal count
            inputs, writes = self._prompt(activations) if embedded is None else (embedded.unsqueeze(1), [])
            with self.working(), editing(self.lm, writes):
                logits = self.lm(inputs_embeds=inputs, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
            count += 1
            return self._allowed(logits, count - 1)[:, 0]

        return step

    @torch.no_grad()
    def write(self, activations: Tensor, noise: Noise) -> Words:
        """A rollout without gradient."""
        step = self._steps(activations)
        with self.working():  # once, not at each step: with adapters that costs as much as a small step itself
            ids = roll_out(
                lambda last: step(None if last is None else self.embed(last)), self.config.code_length, noise
            )
        return Words.ended_by(ids, self.config.stop_id, self.config.pad_id)

    def write_with_gradient(self, activations: Tensor, noise: Noise) -> tuple[Words, Tensor]:
        """The slow twin of `write` and `score`: the graph is kept through time. Words and logits `[N, T, V]`."""
        step = self._steps(activations)
        logits: list[Tensor] = []

        def next_logits(last: Tensor | None) -> Tensor:
            if last is None:
                logits.append(step(None))
            else:
                here = noise.ahead(len(logits) - 1)
                logits.append(step(self.embed_choice(logits[-1].unsqueeze(1), last.unsqueeze(1), here)[:, 0]))
            return logits[-1]

        with self.working():
            ids = roll_out(next_logits, self.config.code_length, noise)
        return Words.ended_by(ids, self.config.stop_id, self.config.pad_id), torch.stack(logits, dim=1)

    def score(self, activations: Tensor, words: Words) -> Tensor:
        """Logits `[N, T, V]` that the tokens of a text (and its end) were chosen from, in one pass with gradient."""
        ids, _ = words.written(self.config.stop_id)
        inputs, writes = self._prompt(activations, ids[:, :-1])
        with self.working(learning=True), editing(self.lm, writes):
            logits = self.lm(inputs_embeds=inputs, use_cache=False, logits_to_keep=ids.shape[1]).logits
        return self._allowed(logits)


class LensEncoder(LensPart):
    """Words -> activation: the subject's layers up to the site read the text; the last token's state is mapped."""

    def __init__(self, config: ConsistencyLensConfig, lm: PreTrainedModel, trainable: str | None = None) -> None:
        super().__init__(config, lm, "encoder", trainable or str(config.encoder_trainable))
        self.site = Site.parse(only_site(config.sites))

    def forward(self, words: Words, embedded: Tensor | None = None) -> Tensor:
        """`[N, d]`. `embedded [N, T, d]`: the same tokens as embeddings that carry a gradient to their choice."""
        start = torch.full_like(words.ids[:, :1], self.config.start_id)
        if embedded is None:  # in one look-up: each has a gradient of the size of the whole table
            inputs = self.embed(torch.cat([start, words.ids], dim=1))
        else:
            inputs = torch.cat([self.embed(start), embedded.to(self.table.dtype)], dim=1)
        with (
            self.working(learning=True),
            reading(self.lm, [self.site], words.lengths.unsqueeze(1), cut=True) as found,
        ):
            self.lm(inputs_embeds=inputs, use_cache=False)
        return self.map(found[str(self.site)][:, 0].to(self.map.weight.dtype))
