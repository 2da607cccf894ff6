"""`SourceLayer` and `Targets`: the weights of a transcoder, layer by layer.

Shapes: N tokens, L chosen layers, d hidden size, F features, n targets of a source.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..base.engines.shards import local
from .coding.decoding import causal_decode, product, tied_decode
from .coding.encoding import Active, activate, break_even, pre_activations
from .coding.entries import Entries
from .coding.nonlinear import batchtopk_mask, topk_mask
from .coding.sharing import ALONE
from .coding.standardising import Standardiser
from .configuration import CrosslayerTranscoderConfig


class SourceLayer(nn.Module):
    """Encoder, thresholds and decoder of the features of one layer. `encoder`, `threshold` and `decoder` are of the
    features that this process holds: all of them, unless they are spread.

    Args:
        config: of the lens.
        index: which of the chosen layers.
    """

    def __init__(self, config: CrosslayerTranscoderConfig, index: int) -> None:
        super().__init__()
        count, size, reach = config.features, config.hidden_size, config.reach(index)
        self.config, self.reach, self.shards = config, reach, ALONE
        self.W_enc = nn.Parameter(torch.zeros(count, size))
        self.b_enc = nn.Parameter(torch.zeros(count))
        # Its logarithm: a threshold stays above 0.
        start = torch.full((count,), math.log(config.threshold))
        self.log_threshold = nn.Parameter(start) if config.nonlinearity == "jumprelu" else None
        self.W_dec = None if config.tied_decoder else nn.Parameter(torch.zeros(count, reach * size))

    @property
    def encoder(self) -> tuple[Tensor, Tensor]:
        """`[F, d]` and `[F]`."""
        return local(self.W_enc), local(self.b_enc)

    @property
    def threshold(self) -> Tensor | None:
        """Of each feature, `[F]`; only a JumpReLU has any."""
        return None if self.log_threshold is None else local(self.log_threshold).exp()

    @property
    def decoder(self) -> Tensor | None:
        """`[F, n·d]`, unless it is tied."""
        return None if self.W_dec is None else local(self.W_dec)

    @property
    def own(self) -> slice:
        """Which of the layer's features these are."""
        return self.shards.own(self.config.features)

    def mask(self, pre: Tensor) -> Tensor | None:
        """Which entries of the pre-activations `[N, F]` are active, where that does not follow from thresholds."""
        match self.config.nonlinearity:
            case "relu":
                return pre > 0
            case "topk":
                return topk_mask(pre, self.config.k or 0, self.shards)
            case "batchtopk":
                return batchtopk_mask(pre, self.config.k or 0, self.shards)
        return None

    def forward(
        self, x: Tensor, pre: Tensor | None = None, mask: Tensor | None = None, limit: float | None = None
    ) -> Active:
        """The active features of what this layer reads.

        Args:
            x: `[N, d]` in standardised space.
            pre, mask: where they are known already.
            limit: share of active entries up to which the result is sparse; default as measured for the device.
        """
        (weight, bias), decoder, x = self.encoder, self.decoder, self.shards.read(x)
        if limit is None:
            limit = break_even(weight if decoder is None else decoder)
        if pre is None:
            pre = pre_activations(x, weight, bias)
        if mask is None:
            mask = self.mask(pre)
        return activate(x, weight, bias, pre, mask, self.threshold, self.config.bandwidth, limit)


class Targets(nn.Module):
    """What belongs to the reconstructed sites: biases, standardisation, skips, and decoders where they are tied."""

    def __init__(self, config: CrosslayerTranscoderConfig) -> None:
        super().__init__()
        count, size = len(config.window), config.hidden_size
        self.b_dec = nn.Parameter(torch.zeros(count, size))
        self.W_skip = nn.Parameter(torch.zeros(count, size, size)) if config.skip else None
        self.W_dec = None
        if config.tied_decoder:
            self.W_dec = nn.ParameterList([torch.zeros(config.features, size) for _ in range(count)])
        self.standardiser = Standardiser(count, size)
        self.shards = ALONE

    @property
    def bias(self) -> Tensor:
        """`[L, d]`."""
        return local(self.b_dec)

    @property
    def skip(self) -> Tensor | None:
        """`[L, d, d]`."""
        return None if self.W_skip is None else local(self.W_skip)

    @property
    def tied(self) -> list[Tensor]:
        """The decoder of each target, `[F, d]`, of the features that this process holds."""
        return [] if self.W_dec is None else [local(weight) for weight in self.W_dec]

    def decode(
        self, active: Sequence[Active], sources: Sequence[SourceLayer], limit: float | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """What features write to all targets, in standardised space, without bias and skip: `[N, L, d]`. And the
        length of what each feature writes, `[F]` per source."""
        if self.W_dec is not None:
            total, lengths = tied_decode(active, self.tied, limit)
        else:
            decoders = [weight for source in sources if (weight := source.decoder) is not None]
            total, lengths = causal_decode(active, decoders, self.b_dec.shape[1], limit)
        return self.shards.sum(total), lengths

    def pieces(self, index: int, active: Active, source: SourceLayer, limit: float | None = None) -> list[Tensor]:
        """What one source layer writes to each of its targets, `[N, d]` each: the part of `decode` that is its own."""
        decoder = source.decoder
        weights = self.tied[index:] if decoder is None else [decoder]
        written = [self.shards.sum(product(active, weight, limit)[0]) for weight in weights]
        return [piece for each in written for piece in each.split(self.b_dec.shape[1], dim=1)]

    def norms(self, index: int, source: SourceLayer) -> Tensor:
        """The length of what each feature of a source writes to all its targets, `[F]`."""
        decoder = source.decoder
        if decoder is not None:
            return decoder.norm(dim=1)
        squares = [weight.square().sum(1) for weight in self.tied[index:]]
        return torch.stack(squares).sum(0).sqrt()

    def rows(self, index: int, source: SourceLayer, features: Tensor) -> Tensor:
        """What some features of a source write to all its targets, `[·, n·d]`."""
        decoder = source.decoder
        if decoder is not None:
            return decoder[features]
        return torch.cat([weight[features] for weight in self.tied[index:]], dim=1)

    def skipped(self, x: Tensor) -> Tensor | float:
        """The linear maps of each layer's own input `[N, L, d]`."""
        return 0.0 if (skip := self.skip) is None else torch.einsum("nld,lod->nlo", x, skip)


def scaled(active: Active, factors: Tensor) -> Active:
    """Features times a factor each, `[F]`."""
    if isinstance(active, Entries):
        return active.with_values(active.values * factors[active.features])
    return active * factors
