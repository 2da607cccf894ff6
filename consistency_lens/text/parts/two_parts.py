"""`TwoParts`: a lens of a decoder, which writes words, and an encoder, which reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, Self

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...base.modeling import LensModel
from ...base.saving.lens_files import HEADS
from ...errors import BadInput
from ...frozen import FrozenLM, FrozenModels
from .. import controls
from ..configuration import ConsistencyLensConfig
from .backbone import backbone, require_weights
from .decoder_encoder import LensDecoder, LensEncoder
from .generation import Words


class TwoParts(LensModel):
    """How a text lens is put together, and saved."""

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

    def looking_at(self, number: int) -> Self:
        """The same lens, with the same weights, reading texts at one of its sites."""
        sites = self.config.sites or []
        if not -len(sites) <= number < len(sites):
            raise BadInput("site", number, f"Use 0 to {len(sites) - 1}, for {', '.join(sites)}.")
        found = copy(self)
        found.looks_at = number
        return found

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

    def unload(self) -> None:
        for part in (self.decoder, self.encoder):
            part.unload()

    def save_parts(self, folder: Path) -> None:
        """What says how to read the files: a configuration beside each part's weights, and the tokenizer."""
        self.tokenizer.save_pretrained(folder)
        for part in (self.decoder, self.encoder):
            part.save_parts(folder)
