"""`ConsistencyLens`: activation -> words -> activation.

Shapes: N rows, T tokens of a text, V vocabulary, d hidden size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from ..base.adapters import adapter_file, add_adapter
from ..base.fidelity import only_site
from ..base.modeling import Batch, LensModel, LensOutput
from ..errors import BadInput
from ..frozen import Edit, FrozenLM, Prefix, Site
from ..frozen.sites import truncate
from . import controls
from .configuration import ConsistencyLensConfig
from .generation import Noise, Words
from .parts import LensDecoder, LensEncoder


@dataclass
class ConsistencyLensOutput(LensOutput):
    """
    Args:
        restored: `Â`, `[N, d]` float32.
        logits: what the words were chosen from, `[N, T, V]`, with gradient.
        beside: what the encoder makes of the texts that were given beside the decoder's own.
    """

    restored: Tensor | None = None
    logits: Tensor | None = None
    beside: Tensor | None = None


class ConsistencyLens(LensModel):
    """Activation -> words -> activation."""

    config_class = ConsistencyLensConfig
    config: ConsistencyLensConfig
    supports_gradient_checkpointing = True

    def __init__(
        self,
        config: ConsistencyLensConfig,
        decoder_lm: PreTrainedModel,
        encoder_lm: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        super().__init__(config)
        self.decoder = LensDecoder(config, decoder_lm)
        self.encoder = LensEncoder(config, encoder_lm)
        self.tokenizer = tokenizer

    @classmethod
    def from_subject(cls, frozen: FrozenLM, site: str, **settings: Any) -> ConsistencyLens:
        """A new lens for one site of a subject: both parts are the subject itself, and both maps the identity."""
        config = ConsistencyLensConfig.for_subject(frozen, site, **settings)
        lens = cls.build(config, frozen, frozen.tokenizer)
        lens.subject = frozen
        return lens

    @classmethod
    def build(cls, config: Any, frozen: FrozenLM | None, tokenizer: PreTrainedTokenizerBase) -> Self:
        """The modules for a configuration. Without a subject only a lens with weights of its own (`full`) can be
        built, and these are left to be loaded."""
        kinds = (config.trainable, config.encoder_trainable)
        if frozen is None and kinds != ("full", "full"):
            raise BadInput("subject", None, "Give the FrozenLM: this lens uses its weights.", f"trainable={kinds}")
        depth = max(1, Site.parse(only_site(config.sites)).depth[0] + 1)
        lms: dict[str, PreTrainedModel] = {}
        parts = zip(("decoder", "encoder"), kinds, strict=True)
        for part, kind in sorted(parts, key=lambda each: each[1] != "full"):  # no clone shall hold the other's adapter
            if kind == "full":
                lm = _clone(frozen) if frozen else _blank(config)
                lms[part] = truncate(lm, depth) if part == "encoder" else lm
                continue
            assert frozen is not None
            if kind == "lora":
                layers = depth if part == "encoder" else None
                add_adapter(frozen.model, part, config.lora_rank, config.lora_alpha, layers)
            lms[part] = frozen.model
        lens = cls(config, lms["decoder"], lms["encoder"], tokenizer)
        return lens.to(frozen.device) if frozen else lens

    def forward(
        self,
        activations: Tensor,
        words: Words | None = None,
        noise: Noise | None = None,
        estimator: str = "policy",
        heard: Callable[[Words], Words] | None = None,
        beside: Words | None = None,
    ) -> ConsistencyLensOutput:
        """Compress and restore, in one call.

        Args:
            activations: `[N, d]`.
            words: texts to score and to read; None lets the decoder write them.
            noise: of the rollout; None for the likeliest words.
            estimator: `parallel` or `sequential` carry a gradient from the encoder to the choice of words
                (straight-through Gumbel-softmax); with `policy` none flows, and `logits` are there to score them; with
                `none` there are none: the encoder learns by itself.
            heard: gives what the encoder hears instead of the words, ids of the same shape.
            beside: other texts for the encoder to read in the same pass.
        """
        noise, logits = noise or Noise(None), None
        if estimator == "sequential" and words is None:
            words, logits = self.decoder.write_with_gradient(activations, noise)
        else:
            words = words or self.decoder.write(activations, noise)
            logits = None if estimator == "none" else self.decoder.score(activations, words)
        embedded = None
        if estimator in ("parallel", "sequential") and logits is not None:
            chosen, _ = words.written(self.config.stop_id)
            embedded = self.encoder.embed_choice(logits, chosen, noise)
        told = words if heard is None else heard(words)
        if embedded is not None and heard is not None:
            # A word that is heard otherwise, or elsewhere, carries no gradient to the choice.
            as_chosen = (told.ids == chosen).unsqueeze(-1)
            embedded = torch.where(as_chosen, embedded, self.encoder.embed(told.ids).to(embedded.dtype))
        restored = self.encoder(told, embedded).float()
        return ConsistencyLensOutput(
            code=words,
            edits=[self._edit(restored)],
            restored=restored,
            logits=logits,
            beside=None if beside is None else self.encoder(beside).float(),
        )

    def _edit(self, restored: Tensor) -> Edit:
        return Edit(self.encoder.site, restored)

    @torch.no_grad()
    def compress(self, batch: Batch, seed: int | None = None) -> Words:
        activations = batch["activations"][self.config.origin_site].to(self.device)
        return self.decoder.write(activations, Noise(seed))

    @torch.no_grad()
    def restore(self, code: Any, batch: Batch) -> list[Edit]:
        return [self._edit(self.encoder(code).float())]

    def checkpoint_activations(self) -> None:
        """Both parts recompute their blocks in the backward pass."""
        for part in (self.decoder, self.encoder):
            part.checkpoint_activations()

    def spell(self, code: Any) -> list[dict[str, Any]]:
        return [{"explanation": text} for text in controls.printed(self.tokenizer, code)]

    def reread(self, texts: Sequence[str]) -> Words:
        return controls.reread(self.config, self.tokenizer, list(texts)).to(self.device)

    def rivals(self, batch: Batch, prefix: Prefix, frozen: FrozenLM, seed: int) -> dict[str, Any]:
        return dict(controls.rivals(self.config, batch, prefix, frozen, seed))

    def tampered(self, code: Any, prefix: Prefix, frozen: FrozenLM, seed: int) -> dict[str, Any]:
        return dict(controls.tampered(self.config, code, frozen, seed))

    def traits(self, code: Any, batch: Batch, prefix: Prefix, frozen: FrozenLM, seed: int) -> dict[str, Tensor]:
        return controls.traits(self.config, code, batch, prefix, frozen, seed)

    def parts(self) -> dict[str, dict[str, nn.Parameter]]:
        """`decoder`, `encoder` and `maps`."""
        names = {id(p): name for name, p in self.named_parameters()}
        found: dict[str, dict[str, nn.Parameter]] = {}
        for part, module in (("decoder", self.decoder), ("encoder", self.encoder)):
            found[part] = {names[id(p)]: p for p in module.own_parameters().values()}
        found["maps"] = self._maps()
        return found

    def files(self) -> dict[str, dict[str, nn.Parameter]]:
        """Own heads at the root; a part's language model, or its adapter, in a folder of its own."""
        found = {"model.safetensors": self._maps()}
        for part, module in (("decoder", self.decoder), ("encoder", self.encoder)):
            match module.trainable:
                case "full":
                    found[f"{part}/model.safetensors"] = dict(module.lm.named_parameters())
                case "lora":
                    found[f"{part}/adapter_model.safetensors"] = adapter_file(module.lm, part)
        return found

    def save_parts(self, folder: Path) -> None:
        """What says how to read the files: a configuration beside each part's weights, and the tokenizer."""
        self.tokenizer.save_pretrained(folder)
        for part, module in (("decoder", self.decoder), ("encoder", self.encoder)):
            match module.trainable:
                case "full":
                    module.lm.config.save_pretrained(folder / part)
                case "lora":
                    module.lm.peft_config[part].save_pretrained(str(folder / part))

    def _maps(self) -> dict[str, nn.Parameter]:
        return {
            f"{part}.map.{name}": parameter
            for part, module in (("decoder", self.decoder), ("encoder", self.encoder))
            for name, parameter in module.map.named_parameters()
        }


def _clone(frozen: FrozenLM) -> PreTrainedModel:
    if frozen.quantization != "none":
        raise BadInput("trainable", "full", "Use trainable=lora: a quantised subject cannot be cloned and trained.")
    return copy.deepcopy(frozen.model).float()


def _blank(config: ConsistencyLensConfig) -> PreTrainedModel:
    subject = AutoConfig.for_model(**(config.subject or {}))
    return AutoModelForCausalLM.from_config(subject, dtype=torch.float32).eval()  # no dropout, ever
