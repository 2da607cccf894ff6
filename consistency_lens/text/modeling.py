"""`ConsistencyLens`: activation -> words -> activation.

Shapes: N rows, T tokens of a text, V vocabulary, d hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from ..base.lens import Batch, LensOutput
from ..frozen import Edit, FrozenLM, Prefix
from . import controls
from .configuration import ConsistencyLensConfig
from .parts.generation import Noise, Words
from .parts.merging import merged
from .steering import Steering


class Rows(Protocol):
    """`Activations`, which loading a lens does not import."""

    def norm(self, site: str) -> float: ...


@dataclass
class ConsistencyLensOutput(LensOutput):
    """
    Args:
        restored: `Â`, `[N, d]` float32.
        logits: what the words were chosen from, `[N, T, V]`, with gradient.
    """

    restored: Tensor | None = None
    logits: Tensor | None = None


class ConsistencyLens(Steering):
    """Activation -> words -> activation."""

    config_class = ConsistencyLensConfig

    @classmethod
    def from_subject(cls, frozen: FrozenLM, site: str, rows: Rows | None = None, **settings: Any) -> ConsistencyLens:
        """A new lens for one site of a model: both parts are the frozen model itself, and both maps the identity.

        Args:
            frozen: the model.
            site: that the lens reads.
            rows: `Activations` that it will be trained on: their norm is the lens's scale. Without them name it as
                `activation_norm`, or train on activations of norm 1.
            settings: of `ConsistencyLensConfig`.
        """
        if rows is not None:
            settings["activation_norm"] = rows.norm(str(frozen.site(site)))
        config = ConsistencyLensConfig.for_subject(frozen, site, **settings)
        lens = cls.build(config, frozen, frozen.tokenizer)
        lens.subject = frozen
        return lens

    def forward(
        self,
        activations: Tensor,
        words: Words | None = None,
        noise: Noise | None = None,
        estimator: str = "policy",
    ) -> ConsistencyLensOutput:
        """Compress and restore, in one call.

        Args:
            activations: `[N, d]`.
            words: texts to score and to read; None lets the decoder write them.
            noise: of the rollout; None for the likeliest words.
            estimator: `parallel` or `sequential` carry a gradient from the encoder to the choice of words
                (straight-through Gumbel-softmax); with `policy` none flows, and `logits` are there to score them; with
                `none` there are none: the encoder learns by itself.
        """
        noise, logits = noise or Noise(None), None
        if estimator == "sequential" and words is None:
            words, logits = self.decoder.write_with_gradient(activations, noise)
        else:
            words = words or self.decoder.write(activations, noise)
            logits = None if estimator == "none" else self.decoder.score(activations, words)
        embedded = None
        if estimator in ("parallel", "sequential") and logits is not None:
            chosen = self.encoder.started(words.written(self.config.stop_id)[0])
            embedded = self.encoder.embed_choice(logits, chosen, noise)
        restored = self.encoder(words, embedded).float()
        return ConsistencyLensOutput(
            code=words,
            edits=[self._edit(restored)],
            restored=restored,
            logits=logits,
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

    def rivals(self, batch: Batch, prefix: Prefix, frozen: FrozenLM, seed: int) -> dict[str, Any]:
        """Texts that do not come from the row's activation: what a lens is worth its distance from."""
        return dict(controls.rivals(self.config, batch, prefix, frozen, seed))

    def tampered(self, code: Any, prefix: Prefix, frozen: FrozenLM, seed: int) -> dict[str, Any]:
        """The same texts, changed in ways that tell a language from a private code."""
        return dict(controls.tampered(self.config, code, frozen, seed))

    def traits(self, code: Any, batch: Batch, prefix: Prefix, frozen: FrozenLM, seed: int) -> dict[str, Tensor]:
        """Numbers per row `[B]` that describe the texts themselves."""
        return controls.traits(self.config, code, batch, prefix, frozen, seed)

    def merge_for_release(self) -> Self:
        """The same lens with plain weights in the place of adapters: nobody needs peft to load it, and whoever has
        codes does not need the frozen model. What it costs is logged: each part is then a model of its own."""
        return merged(self)
