"""The rate of a transcoder: how many bits per token say which features are active, and how strongly.

    rate = Σ_l [ log2 C(F, k_l) + k_l · b ]

k_l features of layer l are active on a token: one of C(F, k_l) choices, and b bits for the value of each. A value is
sent as one of the 2^b - 1 levels i · s / (2^b - 1), i = 1 ... 2^b - 1; s is the largest value that its feature had on
training tokens, which a receiver knows as it knows the weights.

Shapes: N tokens, L chosen layers, F features per layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...evaluation.about import Chart
from ...frozen import Edit
from ..coding.encoding import Active
from ..coding.entries import Entries
from ..modeling import CrosslayerTranscoder
from ..use.replacing import replaced_by

BITS = (2, 3, 4, 6, 8)  # of a value: what is tried, the fewest first
WHOLE = 32  # of a value as it is
LOSS = 0.005  # of kl_recovered, at most


def index_bits(counts: Tensor, features: int) -> Tensor:
    """log2 C(F, k) of each of some numbers of active features, float64."""
    k = counts.double()
    whole = torch.lgamma(torch.tensor(features + 1.0, dtype=torch.float64))
    chosen = whole - torch.lgamma(k + 1) - torch.lgamma(features - k + 1)
    return (chosen / math.log(2)).clamp_min(0)  # of one choice rounding leaves a little below 0


def rate_of(counts: Tensor, features: int, bits: int) -> Tensor:
    """Bits of each token `[N]`, from its active features in each layer `[N, L]`."""
    return (index_bits(counts, features) + counts.double() * bits).sum(1)


@torch.no_grad()
def largest_values(lens: CrosslayerTranscoder, samples: Tensor) -> Tensor:
    """The largest value of each feature over some tokens, `[L, F]`; where a feature was never active, the largest of
    its layer.

    Args:
        lens: the transcoder.
        samples: what it reads, `[N, L, d]`.
    """
    found = torch.zeros(len(lens.config.window), lens.config.features)
    for part in samples.split(4096):
        for i, active in enumerate(lens.code_of(lens.encode(part.to(lens.device))).entries):
            strongest = torch.zeros(lens.config.features)
            strongest.scatter_reduce_(0, active.features.cpu(), active.values.cpu(), "amax")
            found[i] = torch.maximum(found[i], strongest)
    return torch.where(found > 0, found, found.amax(1, keepdim=True).clamp_min(1e-12))


def quantised(active: Active, bits: int, largest: Tensor) -> Active:
    """The same features with values that `bits` can say.

    Args:
        active: of one layer, `[N, F]` or its entries.
        bits: b.
        largest: s of each feature, `[F]`.
    """
    levels = 2**bits - 1
    if isinstance(active, Entries):
        scale = largest.to(active.values)[active.features]
        said = (active.values / scale * levels).round().clamp(1, levels) * scale / levels
        return active.with_values(torch.where(active.values > 0, said, 0.0))
    scale = largest.to(active)
    return torch.where(active > 0, (active / scale * levels).round().clamp(1, levels) * scale / levels, 0.0)


def quantised_edits(lens: CrosslayerTranscoder, batch: Mapping[str, Any], bits: int, largest: Tensor) -> list[Edit]:
    """The lens in the place of its sites, its values in so many bits each."""
    return replaced_by(lens, batch, lambda index, active: quantised(active, bits, largest[index]))


def fewest_bits(recovered: Mapping[int, float], whole: float, tried: Sequence[int] = BITS) -> int:
    """The fewest bits of a value at which `kl_recovered` falls by at most `LOSS`; `WHOLE` where none will do.

    Args:
        recovered: bits -> kl_recovered.
        whole: of the values as they are.
        tried: in increasing order.
    """
    return next((bits for bits in tried if recovered[bits] >= whole - LOSS), WHOLE)


def chart_of(kl: Mapping[int, float]) -> Chart:
    """What values of few bits cost.

    Args:
        kl: bits of a value -> KL of the replaced model; `WHOLE` of values as they are.
    """
    return Chart(
        name="value_bits",
        caption="What values of few bits cost: KL over the bits of a value",
        title="What values of few bits cost",
        axis="bits of the value of an active feature",
        height="KL in nats (lower is better)",
        places=tuple("whole" if bits == WHOLE else str(bits) for bits in kl),
        lines={"all sites replaced": tuple(kl.values())},
    )
