"""How far features reach: what they write to their own layer, and what to the layers above it.

Shapes: N tokens, B documents, L chosen layers, F features per layer, n targets of a source.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...evaluation.about import Chart
from ..coding.documents import DocumentCode
from ..coding.entries import sum_by_token
from ..modeling import CrosslayerTranscoder


@torch.no_grad()
def squares_of(lens: CrosslayerTranscoder) -> list[Tensor]:
    """|W_dec|² of each feature to each of its targets, `[F, n]` per source, in standardised space."""
    every = torch.arange(lens.config.features, device=lens.device)
    size = lens.config.hidden_size
    rows = [lens.targets.rows(i, source, every) for i, source in enumerate(lens.layers_in_order)]
    return [own[:, : source.reach * size].view(len(own), source.reach, size).square().sum(-1) for own, source in
            zip(rows, lens.layers_in_order, strict=True)]  # fmt: skip


def written_by_distance(code: DocumentCode, squares: Sequence[Tensor]) -> Tensor:
    """Σ f² |W_dec|² of each document, by how many layers above their own features write: `[B, L]` float64."""
    found = torch.zeros(len(code), len(squares), dtype=torch.float64, device=code.lengths.device)
    for active, own in zip(code.tokens.entries, squares, strict=True):
        energy = sum_by_token(active.with_values(active.values.square()), own.to(active.values))
        found[:, : own.shape[1]] += code.sums(energy.double()).to(found)
    return found


def profile_of(squares: Sequence[Tensor], window: Sequence[int], alive: Tensor) -> Chart:
    """The share of a feature's squared decoder norm that goes to each layer above its own, in the mean over the
    features of a layer that were active."""
    lines = {}
    for i, layer in enumerate(window):
        own = squares[i][alive[i].to(squares[i].device)]
        shares = (own / own.sum(1, keepdim=True).clamp_min(1e-30)).mean(0) if len(own) else squares[i].new_zeros(1)
        lines[f"layer {layer}"] = tuple(float(share) for share in shares)
    return Chart(
        name="reach",
        caption="How far features reach: share of the squared decoder norm by distance",
        title="How far features reach",
        axis="layers above a feature's own",
        height="share of |W_dec|²",
        places=tuple(str(step) for step in range(len(window))),
        lines=lines,
    )
