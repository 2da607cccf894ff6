"""`ConsistencyLens`: activation -> words -> activation.

Shapes: N rows, T tokens of a text, V vocabulary, d hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from ..base.explaining import ROWS, Positions
from ..base.lens import Batch, LensOutput
from ..frozen import Edit, FrozenLM, Prefix
from ..frozen.sites import resolve_sites
from . import controls
from .configuration import ConsistencyLensConfig
from .layers import explain_layers
from .parts.generation import Noise, Words
from .parts.merging import merged
from .parts.sites import At, numbered, read_of, written_at
from .use.steering import Steering


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
    def from_subject(
        cls, frozen: FrozenLM, site: str | Sequence[str], rows: Rows | None = None, **settings: Any
    ) -> ConsistencyLens:
        """A new lens for a site of a model: both parts are the frozen model itself, and all maps the identity.

        Args:
            frozen: the model.
            site: that the lens reads, or several: each row is then of one of them, and both parts are told which.
            rows: `Activations` that it will be trained on: their norm is the lens's scale. Without them name it as
                `activation_norm`, or as `site_norms` of several sites, or train on activations of norm 1.
            settings: of `ConsistencyLensConfig`.
        """
        if rows is not None:
            site = [str(each) for each in resolve_sites(site, frozen.num_layers)]
            norms = [rows.norm(each) for each in site]
            settings |= {"site_norms": norms} if len(norms) > 1 else {"activation_norm": norms[0]}
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
        at: At = -1,
    ) -> ConsistencyLensOutput:
        """Compress and restore, in one call.

        Args:
            activations: `[N, d]`.
            words: texts to score and to read; None lets the decoder write them.
            noise: of the rollout; None for the likeliest words.
            estimator: `parallel` or `sequential` carry a gradient from the encoder to the choice of words
                (straight-through Gumbel-softmax); with `policy` none flows, and `logits` are there to score them; with
                `none` there are none: the encoder learns by itself.
            at: of which site each row is, of a lens that reads several.
        """
        noise, logits = noise or Noise(None), None
        if estimator == "sequential" and words is None:
            words, logits = self.decoder.write_with_gradient(activations, noise, at)
        else:
            words = words or self.decoder.write(activations, noise, at)
            logits = None if estimator == "none" else self.decoder.score(activations, words, at)
        embedded = None
        if estimator in ("parallel", "sequential") and logits is not None:
            chosen = self.encoder.started(words.written(self.config.stop_id)[0])
            embedded = self.encoder.embed_choice(logits, chosen, noise)
        restored = self.encoder(words, embedded, at).float()
        return ConsistencyLensOutput(
            code=words,
            edits=written_at(self.config.sites or [], restored, at),
            restored=restored,
            logits=logits,
        )

    def at(self, batch: Batch) -> At:
        """Of which site each row of a batch is: `batch["site"]`, `[B]`, where it says so. Else all are of the one that
        the lens looks at, or, where the batch does not hold it, of the deepest that it holds."""
        sites, held = self.config.sites or [], batch.get("activations", {})
        if len(sites) == 1:
            return -1
        if "site" in batch:
            return batch["site"]
        known = [number for number, site in enumerate(sites) if site in held]
        return self.looks_at if not known or self.looks_at % len(sites) in known else known[-1]

    def read(self, batch: Batch) -> Tensor:
        """The activation of each row, at its own site, `[B, d]`."""
        return read_of(batch["activations"], self.config.sites or [], self.at(batch))

    @torch.no_grad()
    def compress(self, batch: Batch, seed: int | None = None) -> Words:
        return self.decoder.write(self.read(batch).to(self.device), Noise(seed), self.at(batch))

    @torch.no_grad()
    def restore(self, code: Any, batch: Batch) -> list[Edit]:
        at = self.at(batch)
        return written_at(self.config.sites or [], self.encoder(code, at=at).float(), at)

    def explain(
        self,
        what: Any,
        positions: Positions = None,
        *,
        layers: int | str | Sequence[int | str] | None = None,
        top: int = 5,
        batch_size: int = ROWS,
        generate: bool | int = False,
        temperature: float = 0.0,
    ) -> Any:
        """As `LensModel.explain`, at one of the lens's sites or at several.

        Args:
            what, positions, top, batch_size, generate, temperature: see there.
            layers: `all`, or sites of the lens (`resid_post.2`, or `2` for its layer). Each explained token has a row
                for each of them, with a column `site`. Default: the deepest site alone.
        """
        options = {"top": top, "batch_size": batch_size, "generate": generate, "temperature": temperature}
        if layers is not None:
            return explain_layers(self, what, positions, numbered(self.config.sites or [], layers), options)
        return super().explain(what, positions, **options)  # type: ignore[arg-type]

    def contexts_of(self, texts: Sequence[str | Tensor], ends: Sequence[Sequence[int]]) -> Batch:
        batch = super().contexts_of(texts, ends)
        site = (self.config.sites or [])[self.looks_at]
        return {**batch, "activations": {site: batch["activations"][site]}}

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
