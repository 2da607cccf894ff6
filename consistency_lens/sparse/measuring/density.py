"""How often features are active: the histogram of their densities.

Shapes: L chosen layers, F features per layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...evaluation.about import Chart

EDGES = tuple(10 ** (step / 2) for step in range(-10, 1))  # half a decade each, from 1e-5 to 1


def histogram_of(counts: Tensor, tokens: int) -> Tensor:
    """Of each layer the share of features in each bin, `[L, 2 + bins]`: never active, more rarely than the first edge,
    then from each edge to the next, the last with 1 in it."""
    density = counts.double() / max(1, tokens)
    edges = torch.tensor(EDGES[:-1], dtype=torch.float64)
    place = torch.bucketize(density, edges, right=True) + 1
    place = torch.where(counts == 0, 0, place)
    shares = [torch.bincount(own, minlength=len(EDGES) + 1).double() / len(own) for own in place]
    return torch.stack(shares)


def chart_of(counts: Tensor, tokens: int, window: Sequence[int]) -> Chart:
    """The histogram as a picture."""
    # Of each decade the first bin is named; what is active more rarely than 1e-5 lies between it and `never`.
    names = ["never", "", *("" if i % 2 else f"{low:.0e}" for i, low in enumerate(EDGES[:-1]))]
    shares = histogram_of(counts, tokens)
    return Chart(
        name="density",
        caption=f"How often features are active, over {tokens:,} tokens",
        title="How often features are active",
        axis="share of tokens on which a feature is active, from this value on",
        height="share of the layer's features",
        places=tuple(names),
        lines={f"layer {layer}": tuple(own.tolist()) for layer, own in zip(window, shares, strict=True)},
        bars=len(window) <= 6,
    )
