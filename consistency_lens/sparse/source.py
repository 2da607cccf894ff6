"""`SourceLayer` and `Targets`: the weights of a transcoder, layer by layer.

Shapes: N tokens, L chosen layers, d hidden size, F features, n targets of a source.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .coding.decoding import causal_decode, product, tied_decode
from .coding.encoding import Active, activate, break_even, pre_activations
from .coding.entries import Entries
from .coding.nonlinear import batchtopk_mask, topk_mask
from .coding.standardising import Standardiser
from .configuration import CrosslayerTranscoderConfig


class SourceLayer(nn.Module):
    """Encoder, thresholds and decoder of the features of one layer.

    Args:
        config: of the lens.
        index: which of the chosen layers.
    """

    def __init__(self, config: CrosslayerTranscoderConfig, index: int) -> None:
        super().__init__()
        count, size, reach = config.features, config.hidden_size, config.reach(index)
        self.config, self.reach = config, reach
        self.W_enc = nn.Parameter(torch.zeros(count, size))
        self.b_enc = nn.Parameter(torch.zeros(count))
        # Its logarithm: a threshold stays above 0.
        start = torch.full((count,), math.log(config.threshold))
        self.log_threshold = nn.Parameter(start) if config.nonlinearity == "jumprelu" else None
        self.W_dec = None if config.tied_decoder else nn.Parameter(torch.zeros(count, reach * size))

    @property
    def threshold(self) -> Tensor | None:
        """Of each feature, `[F]`; only a JumpReLU has any."""
        return None if self.log_threshold is None else self.log_threshold.exp()

    def mask(self, pre: Tensor) -> Tensor | None:
        """Which entries of the pre-activations `[N, F]` are active, where that does not follow from thresholds."""
        match self.config.nonlinearity:
            case "relu":
                return pre > 0
            case "topk":
                return topk_mask(pre, self.config.k or 0)
            case "batchtopk":
                return batchtopk_mask(pre, self.config.k or 0)
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
        if limit is None:
            limit = break_even(self.W_enc if self.W_dec is None else self.W_dec)
        if pre is None:
            pre = pre_activations(x, self.W_enc, self.b_enc)
        if mask is None:
            mask = self.mask(pre)
        return activate(x, self.W_enc, self.b_enc, pre, mask, self.threshold, self.config.bandwidth, limit)


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

    def decode(
        self, active: Sequence[Active], sources: Sequence[SourceLayer], limit: float | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """What features write to all targets, in standardised space, without bias and skip: `[N, L, d]`. And the
        length of what each feature writes, `[F]` per source."""
        if self.W_dec is not None:
            return tied_decode(active, list(self.W_dec), limit)
        decoders = [source.W_dec for source in sources]
        return causal_decode(active, [weight for weight in decoders if weight is not None], self.b_dec.shape[1], limit)

    def pieces(self, index: int, active: Active, source: SourceLayer, limit: float | None = None) -> list[Tensor]:
        """What one source layer writes to each of its targets, `[N, d]` each: the part of `decode` that is its own."""
        if self.W_dec is not None:
            return [product(active, weight, limit)[0] for weight in list(self.W_dec)[index:]]
        assert source.W_dec is not None
        return list(product(active, source.W_dec, limit)[0].split(self.b_dec.shape[1], dim=1))

    def norms(self, index: int, source: SourceLayer) -> Tensor:
        """The length of what each feature of a source writes to all its targets, `[F]`."""
        if source.W_dec is not None:
            return source.W_dec.norm(dim=1)
        assert self.W_dec is not None
        squares = [weight.square().sum(1) for weight in list(self.W_dec)[index:]]
        return torch.stack(squares).sum(0).sqrt()

    def rows(self, index: int, source: SourceLayer, features: Tensor) -> Tensor:
        """What some features of a source write to all its targets, `[·, n·d]`."""
        if source.W_dec is not None:
            return source.W_dec[features]
        assert self.W_dec is not None
        return torch.cat([weight[features] for weight in list(self.W_dec)[index:]], dim=1)

    def skipped(self, x: Tensor) -> Tensor | float:
        """The linear maps of each layer's own input `[N, L, d]`."""
        return 0.0 if self.W_skip is None else torch.einsum("nld,lod->nlo", x, self.W_skip)


def scaled(active: Active, factors: Tensor) -> Active:
    """Features times a factor each, `[F]`."""
    if isinstance(active, Entries):
        return active.with_values(active.values * factors[active.features])
    return active * factors
