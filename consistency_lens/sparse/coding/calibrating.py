"""From (Batch)TopK to JumpReLU: thresholds that leave as many features active as the training had.

A TopK looks at all features of a token, a BatchTopK at all tokens of a batch; a threshold looks at one feature alone,
which is what circuit-tracer can read and what a pass through the model can compute layer by layer.

Shapes: N tokens, L layers, F features.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from ...errors import BadInput
from ..transcoder import Transcoder
from .encoding import pre_activations
from .folding import Lens, with_settings
from .nonlinear import batchtopk_mask

# Pre-activations above 0 are counted in logarithmic bins, each a thousandth wide.
_LOWEST, _HIGHEST, _WIDTH = 1e-8, 1e8, 1e-3
BINS = math.ceil(math.log(_HIGHEST / _LOWEST) / _WIDTH)


class Calibration:
    """Counts from which thresholds follow. Those of several parts of the data, or of several processes, add up.

    Args:
        layers: L.
    """

    def __init__(self, layers: int) -> None:
        self.histogram = torch.zeros(layers, BINS, dtype=torch.int64)
        self.active = torch.zeros(layers, dtype=torch.int64)

    def see(self, layer: int, pre: Tensor, mask: Tensor) -> None:
        """Count pre-activations `[N, F]` of a layer and those of them that are active."""
        above = pre[pre > 0].double()
        bins = ((above / _LOWEST).log() / _WIDTH).long().clamp(0, BINS - 1)
        self.histogram[layer] += torch.bincount(bins, minlength=BINS).cpu()
        self.active[layer] += int(mask.sum())

    def merge(self, other: Calibration) -> Calibration:
        """The counts of both."""
        both = Calibration(len(self.active))
        both.histogram = self.histogram + other.histogram
        both.active = self.active + other.active
        return both

    def thresholds(self) -> Tensor:
        """One for each layer `[L]`: the edge of the bin from which on there are about as many as were active."""
        found = []
        for counts, active in zip(self.histogram, self.active.tolist(), strict=True):
            above = counts.flip(0).cumsum(0).flip(0)  # from each bin on
            nearest = (above - active).abs()
            edge = int((nearest == nearest.min()).nonzero()[-1, 0])
            found.append(_LOWEST * math.exp(edge * _WIDTH))
        return torch.tensor(found)


@torch.no_grad()
def calibrate(lens: Lens, batches: Iterable[Tensor]) -> Lens:
    """The same lens as a JumpReLU.

    Args:
        lens: with `topk` or `batchtopk`.
        batches: what the lens reads, `[N, L, d]` each. A BatchTopK compares within a batch: give them the size that
            they had in training.
    """
    config = lens.config
    if config.k is None:
        fix = "Calibrate a lens with topk or batchtopk."
        raise BadInput("nonlinearity", config.nonlinearity, fix, why="it has no k to calibrate thresholds by")
    counts, seen = Calibration(len(config.window)), 0
    for read in batches:
        x = lens.standardiser(read.to(lens.device, torch.float32))
        pres = [pre_activations(x[:, i], s.W_enc, s.b_enc) for i, s in enumerate(lens.layers_in_order)]
        together = batchtopk_mask(torch.stack(pres), config.k) if config.across_layers else None
        for i, (pre, source) in enumerate(zip(pres, lens.layers_in_order, strict=True)):
            mask = source.mask(pre) if together is None else together[i]
            assert mask is not None
            counts.see(i, pre, mask)
        seen += len(read)
    if not seen:
        raise BadInput("batches", 0, "Give at least one batch of activations.")
    settings = {"nonlinearity": "jumprelu", "k": None, "across_layers": False}
    shipped = type(lens)(with_settings(config, **settings)).to(lens.device)
    shipped.subject = lens.subject
    own = dict(lens.named_parameters())
    for name, parameter in shipped.named_parameters():
        if name in own:
            parameter.copy_(own[name])
    for threshold, source in zip(counts.thresholds().tolist(), shipped.layers_in_order, strict=True):
        assert source.log_threshold is not None
        source.log_threshold.fill_(math.log(threshold))
    return shipped.train(lens.training)


@torch.no_grad()
def count_ratios(lens: Transcoder, batches: Iterable[Tensor]) -> tuple[Calibration, int]:
    """How far the pre-activations of a JumpReLU are above its thresholds, x / θ
    over all layers, and over how many tokens.

    Args:
        lens: with `jumprelu`.
        batches: what it reads, `[N, L, d]` each.
    """
    counts, seen = Calibration(1), 0
    for read in batches:
        x = lens.standardiser(read.to(lens.device, torch.float32))
        for i, source in enumerate(lens.layers_in_order):
            assert source.threshold is not None
            ratio = pre_activations(x[:, i], source.W_enc, source.b_enc) / source.threshold
            counts.see(0, ratio, ratio > 1)
        seen += len(read)
    return counts, seen


@torch.no_grad()
def scale_thresholds(lens: Transcoder, counts: Calibration, tokens: int, l0: float) -> float:
    """Multiply all thresholds by the one factor at which so many features per token and layer are active, in the mean
    over layers; returns the factor.

    Args:
        lens: with `jumprelu`; changed in place.
        counts, tokens: from `count_ratios`, those of several processes added up.
        l0: the number.
    """
    wanted = Calibration(1)
    wanted.histogram = counts.histogram
    wanted.active[0] = round(l0 * tokens * len(lens.config.window))
    factor = float(wanted.thresholds()[0])
    for source in lens.layers_in_order:
        assert source.log_threshold is not None
        source.log_threshold.add_(math.log(factor))
    return factor
