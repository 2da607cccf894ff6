"""Small transcoders of small models, and activations for them."""

from __future__ import annotations

from typing import Any

import torch
from tiny import shared_lm
from torch import Tensor

from consistency_lens.frozen import FrozenLM
from consistency_lens.sparse.coding.standardising import Moments
from consistency_lens.sparse.modeling import CrosslayerTranscoder


def activations(tokens: int = 40, sites: int = 4, size: int = 32, seed: int = 0) -> Tensor:
    """`[N, L, d]`, off the origin and of different size at each site."""
    values = torch.randn(tokens, sites, size, generator=torch.Generator().manual_seed(seed))
    return values * (1.0 + torch.arange(sites, dtype=torch.float32)[:, None]) + 2.0


def small_lens(
    case: str = "llama", layers: Any = "all", seed: int = 0, frozen: FrozenLM | None = None, **settings: Any
) -> CrosslayerTranscoder:
    """A random lens that writes about as much as it reads, standardised by random activations."""
    settings = {"features": 24} | settings
    lens = CrosslayerTranscoder.from_subject(frozen or shared_lm(case), layers, seed, **settings)
    count = len(lens.config.window)
    lens.standardise(Moments.of(activations(sites=count, seed=1)), Moments.of(activations(sites=count, seed=2)))
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, parameter in lens.named_parameters():
            if name.endswith(("b_enc", "b_dec", "W_skip")):
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return lens.eval()
