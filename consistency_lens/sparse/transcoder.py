"""`Transcoder`: the mathematics of sparse features that are read at many layers and written in the place of many MLPs.

Shapes: N tokens, L chosen layers, d hidden size, F features per layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from xxhash import xxh3_64

from ..base.engines.shards import spread
from ..base.lens import Batch, LensOutput
from ..base.modeling import LensModel
from ..base.saving.lens_files import HEADS
from ..errors import BadInput
from .coding.code import SparseCode
from .coding.encoding import Active, pre_activations
from .coding.nonlinear import batchtopk_mask
from .coding.sharing import Shards
from .coding.standardising import Moments, Standardiser
from .configuration import CrosslayerTranscoderConfig
from .features.contexts import FeatureContexts
from .source import SourceLayer, Targets


@dataclass
class TranscoderOutput(LensOutput):
    """
    Args:
        active: features of each layer, with gradient.
        reconstruction: of all targets in standardised space, `[N, L, d]`.
        lengths: of what each feature writes, `[F]` per layer, in standardised space.
    """

    active: Any = None
    reconstruction: Tensor | None = None
    lengths: Any = None


class Transcoder(LensModel):
    """Encoders of some layers, and decoders to the sites that they write."""

    config_class = CrosslayerTranscoderConfig
    config: CrosslayerTranscoderConfig
    contexts: FeatureContexts | None = None  # what its features stand for, where that is known

    def __init__(self, config: CrosslayerTranscoderConfig, seed: int = 0) -> None:
        super().__init__(config)
        count = len(config.window)
        self.standardiser = Standardiser(count, config.hidden_size)  # of what is read
        self.sources = nn.ModuleList([SourceLayer(config, index) for index in range(count)])
        self.targets = Targets(config)
        self.initialise(seed)

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Uniform weights, ±1/√F in the encoders and ±1/√(L d) in the decoders; no bias."""
        generator = torch.Generator().manual_seed(seed)
        count, size = len(self.config.window), self.config.hidden_size
        for name, parameter in self.named_parameters():
            if "W_enc" in name or "W_dec" in name:
                bound = self.config.features**-0.5 if "W_enc" in name else (count * size) ** -0.5
                drawn = torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)
                parameter.copy_(drawn)

    @torch.no_grad()
    def standardise(self, read: Moments, written: Moments) -> None:
        """Take mean and scale of all sites from the statistics of all training data."""
        self.standardiser.fit(read, self.config.standardisation)
        self.targets.standardiser.fit(written, self.config.standardisation)

    def encode(self, read: Tensor, limit: float | None = None) -> list[Active]:
        """Active features of each layer.

        Args:
            read: `[N, L, d]`, as the model has it.
            limit: share of active entries up to which they are sparse; default as measured for the device.
        """
        x = self.standardiser(read.float())
        known: list[tuple[Tensor, Tensor] | tuple[()]] = [()] * len(self.layers_in_order)
        if self.config.across_layers:
            weights = [source.encoder for source in self.layers_in_order]
            pre = torch.stack([pre_activations(x[:, i], *own) for i, own in enumerate(weights)])
            known = list(zip(pre, batchtopk_mask(pre, self.config.k or 0), strict=True))
        return [source(x[:, i], *known[i], limit=limit) for i, source in enumerate(self.layers_in_order)]

    def decode(self, active: Sequence[Active], read: Tensor, limit: float | None = None) -> Tensor:
        """What features write to all targets, in standardised space: `[N, L, d]`."""
        return self._decode(active, read, limit)[0]

    def _decode(self, active: Sequence[Active], read: Tensor, limit: float | None) -> tuple[Tensor, list[Tensor]]:
        written, lengths = self.targets.decode(active, self.layers_in_order, limit)
        written = written + self.targets.bias
        if self.config.skip:
            written = written + self.targets.skipped(self.standardiser(read.float()))
        return written, lengths

    def forward(self, read: Tensor, limit: float | None = None) -> TranscoderOutput:
        """Encode and decode.

        Args:
            read: `[N, L, d]`, as the model has it.
            limit: as for `encode`.
        """
        active = self.encode(read, limit)
        reconstruction, lengths = self._decode(active, read, limit)
        code = self.code_of(active)
        return TranscoderOutput(code=code, active=active, reconstruction=reconstruction, lengths=lengths)

    def reconstruct(self, read: Tensor) -> Tensor:
        """What the lens writes in the place of each site, as the model has it: `[N, L, d]`."""
        return self.targets.standardiser.undo(self.decode(self.encode(read), read))

    def spread(self, shards: Shards) -> None:
        """Keep this process's share of the features of every layer, as the whole training is to have it."""
        self.shards.require(self.config.features, self.config.across_layers)
        spread(self, ("b_dec", "W_skip"), self.device, shards.count)
        for source in self.layers_in_order:
            source.shards = shards
        self.targets.shards = shards

    @property
    def shards(self) -> Shards:
        return self.targets.shards

    @property
    def layers_in_order(self) -> list[SourceLayer]:
        return [source for source in self.sources if isinstance(source, SourceLayer)]

    def norms(self) -> list[Tensor]:
        """The length of what each feature writes, `[F]` per layer, in standardised space."""
        return [self.targets.norms(i, source) for i, source in enumerate(self.layers_in_order)]

    def fingerprint(self) -> str:
        """What tells the features of a lens from those of another: a hash over biases, thresholds and the first weight
        of each encoder."""
        found = xxh3_64()
        for source in self.layers_in_order:
            for tensor in (source.W_enc[:, 0], source.b_enc, source.log_threshold):
                if tensor is not None:
                    found.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return found.hexdigest()

    def code_of(self, active: Sequence[Active]) -> SparseCode:
        return SparseCode(tuple(found.detach() for found in active), tuple(self.config.window))

    def read_of(self, batch: Batch) -> Tensor:
        """`[N, L, d]` of a batch, whose activations are `[N, d]` for each site that is read."""
        found = batch["activations"]
        missing = [site for site in self.config.read_sites if site not in found]
        if missing:
            fix = f"Read {', '.join(self.config.read_sites)}."
            raise BadInput("activations", missing[0], fix, why="the lens reads this site")
        return torch.stack([found[site] for site in self.config.read_sites], 1).to(self.device)

    def describe(self, code: Any) -> list[dict[str, Any]]:
        return code.rows()

    def parts(self) -> dict[str, dict[str, nn.Parameter]]:
        """`encoder` and `decoder`."""
        found: dict[str, dict[str, nn.Parameter]] = {"encoder": {}, "decoder": {}}
        for name, parameter in self.named_parameters():
            if "standardiser" not in name:
                own = name.endswith(("W_enc", "b_enc", "log_threshold"))
                found["encoder" if own else "decoder"][name] = parameter
        return found

    def pieces(self) -> dict[str, nn.Module]:
        own: Mapping[str, nn.Module] = {f"source_{i}": source for i, source in enumerate(self.sources)}
        return {**own, "targets": self.targets, "standardiser": self.standardiser}

    def files(self) -> dict[str, dict[str, nn.Parameter]]:
        return {HEADS: dict(self.named_parameters())}
