"""The slow twins of `decoding.causal_decode`: three ways in which crosslayer decoders are computed elsewhere.

Shapes: N tokens, L layers, d hidden size, F features; `features` is `[N, L, F]`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def dense_masked(features: Tensor, weight: Tensor) -> Tensor:
    """One tensor `[L, L, F, d]` of all pairs of source and target, the half below the diagonal masked by zeros."""
    mask = torch.ones(weight.shape[:2], dtype=weight.dtype, device=weight.device).triu()
    return torch.einsum("nif,ijfd->njd", features, weight * mask[:, :, None, None])


def packed_pairs(features: Tensor, weight: Tensor) -> Tensor:
    """`[L(L+1)/2, F, d]`, a row per pair; features are gathered for each pair."""
    sources, targets = torch.triu_indices(features.shape[1], features.shape[1], device=features.device)
    written = torch.einsum("npf,pfd->npd", features[:, sources], weight)
    return torch.zeros_like(written[:, : features.shape[1]]).index_add(1, targets, written)


def target_major(features: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """For each target l a tensor `[l + 1, F, d]`, a slice per source."""
    columns = [torch.einsum("nif,ifd->nd", features[:, : target + 1], weight) for target, weight in enumerate(weights)]
    return torch.stack(columns, 1)


def as_dense(decoders: Sequence[Tensor], size: int) -> Tensor:
    """Source-major decoders `[F, n·d]` as `[L, L, F, d]`, zeros below the diagonal."""
    count, rows = len(decoders), []
    for source, weight in enumerate(decoders):
        own = weight.view(len(weight), -1, size).transpose(0, 1)
        below = own.new_zeros(source, *own.shape[1:])
        above = own.new_zeros(count - source - len(own), *own.shape[1:])
        rows.append(torch.cat([below, own, above]))
    return torch.stack(rows)


def as_pairs(decoders: Sequence[Tensor], size: int) -> Tensor:
    """The same as `[L(L+1)/2, F, d]`."""
    sources, targets = torch.triu_indices(len(decoders), len(decoders))
    return as_dense(decoders, size)[sources, targets]


def as_targets(decoders: Sequence[Tensor], size: int) -> list[Tensor]:
    """The same as a list of `[l + 1, F, d]`."""
    dense = as_dense(decoders, size)
    return [dense[: target + 1, target] for target in range(len(decoders))]
