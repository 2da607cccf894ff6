"""`ConsistencyLens`: activation -> words -> activation.

Shapes: N rows, T tokens of a text, V vocabulary, d hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..base.explaining import ROWS, Positions
from ..base.modeling import Batch, LensModel, LensOutput
from ..base.saving.lens_files import HEADS
from ..frozen import Edit, FrozenLM, FrozenModels, Prefix
from ..frozen.sites import resolve_sites
from . import controls
from .configuration import ConsistencyLensConfig
from .layers import explain_layers
from .parts.backbone import backbone, require_weights
from .parts.decoder_encoder import LensDecoder, LensEncoder
from .parts.generation import Noise, Words
from .parts.merging import merged
from .parts.sites import At, numbered, read_of, written_at
from .steering import Steered, steer


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


class ConsistencyLens(LensModel):
    """Activation -> words -> activation."""

    config_class = ConsistencyLensConfig
    config: ConsistencyLensConfig
    supports_gradient_checkpointing = True
    looks_at = -1  # the number of the site at which texts are read

    def __init__(
        self,
        config: ConsistencyLensConfig,
        decoder_lm: PreTrainedModel,
        encoder_lm: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        adapters: Mapping[str, str | None] | None = None,
    ) -> None:
        super().__init__(config)
        adapters = adapters or {}
        self.decoder = LensDecoder(config, decoder_lm, adapter=adapters.get("decoder"))
        self.encoder = LensEncoder(config, encoder_lm, adapter=adapters.get("encoder"))
        self.tokenizer = tokenizer

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
            norms = [rows.norm(str(each)) for each in resolve_sites(site, frozen.num_layers)]
            settings |= {"site_norms": norms} if len(norms) > 1 else {"activation_norm": norms[0]}
        config = ConsistencyLensConfig.for_subject(frozen, site, **settings)
        lens = cls.build(config, frozen, frozen.tokenizer)
        lens.subject = frozen
        return lens

    @classmethod
    def build(cls, config: Any, frozen: FrozenLM | None, tokenizer: PreTrainedTokenizerBase) -> Self:
        """The modules for a configuration. Without a frozen model only a lens with weights of its own (`full`) can be
        built, and these are left to be loaded."""
        parts = sorted(("decoder", "encoder"), key=lambda part: config.kind_of(part) != "full")
        lms = {part: backbone(config, frozen, part) for part in parts}  # no clone shall hold the other's adapter
        adapters = {part: adapter for part, (_, adapter) in lms.items()}
        lens = cls(config, lms["decoder"][0], lms["encoder"][0], tokenizer, adapters)
        return lens.to(frozen.device) if frozen else lens

    @classmethod
    def require_files(cls, config: Any, folder: Path, models: FrozenModels | None) -> None:
        require_weights(config, folder, alone=models is None)

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
        layers: str | Sequence[str] | None = None,
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

    def looking_at(self, number: int) -> Self:
        """The same lens, with the same weights, reading texts at one of its sites."""
        found = copy(self)
        found.looks_at = number
        return found

    def contexts_of(self, texts: Sequence[str | Tensor], ends: Sequence[Sequence[int]]) -> Batch:
        batch = super().contexts_of(texts, ends)
        site = (self.config.sites or [])[self.looks_at]
        return {**batch, "activations": {site: batch["activations"][site]}}

    def pieces(self) -> dict[str, nn.Module]:
        parts = {"decoder": self.decoder, "encoder": self.encoder}
        lms: dict[str, nn.Module] = {f"{name}_lm": part.lm for name, part in parts.items()}
        return lms | {f"{name}_map": part.map for name, part in parts.items()}

    def checkpoint_activations(self) -> None:
        """Both parts recompute their blocks in the backward pass."""
        for part in (self.decoder, self.encoder):
            part.checkpoint_activations()

    def describe(self, code: Any) -> list[dict[str, Any]]:
        return [{"explanation": text} for text in controls.printed(self.tokenizer, code)]

    def reread(self, texts: Sequence[str]) -> Words:
        """Codes from what people, or a world that rewords, have written."""
        return controls.reread(self.config, self.tokenizer, list(texts)).to(self.device)

    def steer(
        self,
        text: str,
        position: int,
        new_explanation: str,
        strength: float = 1.0,
        old_explanation: str | None = None,
        continuation_length: int = 20,
        temperature: float = 1.0,
        seed: int = 0,
        top: int = 5,
    ) -> Steered:
        """Change the words of an explanation, and see the frozen model change its mind.

        The encoder turns the change into a difference of activations, E(new) - E(old), which is added at the site, at
        this token of the text.

        Args:
            text: what the frozen model reads.
            position: token at whose activation to add; negative ones are counted from the right.
            new_explanation: what the activation shall be about.
            strength: factor on the difference; 0 changes nothing, bit for bit.
            old_explanation: what to change it from; default what the lens says there.
            continuation_length: how many tokens the frozen model then says, without the edit and with it.
            temperature: of these continuations; 0 for the likeliest words.
            seed: of these continuations.
            top: how many of the likeliest next tokens to give.
        """
        given = (old_explanation, continuation_length, temperature, seed, top)
        return steer(self, text, position, new_explanation, strength, *given)

    def rivals(self, batch: Batch, prefix: Prefix, frozen: FrozenLM, seed: int) -> dict[str, Any]:
        """Texts that do not come from the row's activation: what a lens is worth its distance from."""
        return dict(controls.rivals(self.config, batch, prefix, frozen, seed))

    def tampered(self, code: Any, prefix: Prefix, frozen: FrozenLM, seed: int) -> dict[str, Any]:
        """The same texts, changed in ways that tell a language from a private code."""
        return dict(controls.tampered(self.config, code, frozen, seed))

    def traits(self, code: Any, batch: Batch, prefix: Prefix, frozen: FrozenLM, seed: int) -> dict[str, Tensor]:
        """Numbers per row `[B]` that describe the texts themselves."""
        return controls.traits(self.config, code, batch, prefix, frozen, seed)

    def parts(self) -> dict[str, dict[str, nn.Parameter]]:
        """`decoder`, `encoder` and `maps`."""
        names = {id(p): name for name, p in self.named_parameters()}
        found: dict[str, dict[str, nn.Parameter]] = {}
        for part, module in (("decoder", self.decoder), ("encoder", self.encoder)):
            found[part] = {names[id(p)]: p for p in module.own_parameters().values()}
        found["maps"] = self.files()[HEADS]
        return found

    def files(self) -> dict[str, dict[str, nn.Parameter]]:
        """Own heads at the root; a part's language model, or its adapter, in a folder of its own."""
        decoder, encoder = self.decoder.files(), self.encoder.files()
        return decoder | encoder | {HEADS: decoder[HEADS] | encoder[HEADS]}

    @property
    def folders(self) -> tuple[str, ...]:
        return self.config.part_folders

    def merge_for_release(self) -> Self:
        """The same lens with plain weights in the place of adapters: nobody needs peft to load it, and whoever has
        codes does not need the frozen model. What it costs is logged: each part is then a model of its own."""
        return merged(self)

    def unload(self) -> None:
        for part in (self.decoder, self.encoder):
            part.unload()

    def save_parts(self, folder: Path) -> None:
        """What says how to read the files: a configuration beside each part's weights, and the tokenizer."""
        self.tokenizer.save_pretrained(folder)
        for part in (self.decoder, self.encoder):
            part.save_parts(folder)
