"""How near reconstructions are to what they stand for, document by document, so that every number gets its interval.

Shapes: B documents, N tokens of them, L chosen layers, d hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...frozen import FrozenLM
from ..coding.documents import lengths_of, read_documents, sums_of
from ..modeling import CrosslayerTranscoder


def clean_values(
    lens: CrosslayerTranscoder, frozen: FrozenLM, batch: Mapping[str, Any]
) -> tuple[Tensor, Tensor, Tensor]:
    """What the untouched model computes where the lens reads and where it writes, `[N, L, d]` each, and the number of
    tokens of each document, `[B]`."""
    found = read_documents(frozen, batch, lens.config.all_sites)
    read, written = (
        torch.stack([found[site] for site in sites], 1).float()
        for sites in (lens.config.read_sites, lens.config.written_sites)
    )
    return read, written, lengths_of(frozen, batch)


def errors_of(reconstruction: Tensor, written: Tensor, lengths: Tensor) -> Tensor:
    """Σ |y - ŷ|² of each document and layer, `[B, L]` float64."""
    return sums_of((written - reconstruction).double().square().sum(-1), lengths)


def sums_and_squares(written: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Σ y, `[B, L, d]`, and Σ |y|², `[B, L]`, of each document, float64."""
    exact = written.double()
    return sums_of(exact, lengths), sums_of(exact.square().sum(-1), lengths)


def spread_of(sums: Tensor, squares: Tensor, tokens: Tensor) -> Tensor:
    """Σ |y - E y|² of each document and layer, `[B, L]`, where E y is the mean over the tokens of all documents: what
    explained variance is a share of."""
    sums, squares, count = sums.double(), squares.double(), tokens.double()
    mean = sums.sum(0) / count.sum()
    crossed = (sums * mean).sum(-1)
    return squares - 2 * crossed + count[:, None] * mean.square().sum(-1)


def explained_variance(errors: Tensor, spread: Tensor) -> Tensor:
    """1 - Σ |y - ŷ|² / Σ |y - E y|², of each column: `[B, L]` to `[L]`."""
    return 1 - errors.double().sum(0) / spread.sum(0).clamp_min(1e-300)
