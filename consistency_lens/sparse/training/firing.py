"""`Firing`: how often each feature was active, and for how long it has not been; dead features brought back.

Counts are whole numbers that add up: over batches, over processes and over interruptions.

Shapes: L layers, F features per layer, N tokens, d hidden size.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from ..modeling import CrosslayerTranscoder


class Firing(nn.Module):
    """Buffers, so that a checkpoint has them.

    Args:
        layers: L.
        features: F.
    """

    count: Tensor
    idle: Tensor
    tokens: Tensor

    def __init__(self, layers: int, features: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(layers, features, dtype=torch.int64))
        self.register_buffer("idle", torch.zeros(layers, features, dtype=torch.int64))
        self.register_buffer("tokens", torch.zeros((), dtype=torch.int64))

    def see(self, counts: Tensor, tokens: int | Tensor) -> None:
        """Add one step.

        Args:
            counts: on how many tokens each feature was active, `[L, F]`, summed over all processes.
            tokens: how many there were in all processes.
        """
        self.count += counts
        self.tokens += tokens
        self.idle += tokens
        self.idle[counts > 0] = 0

    def dead(self, window: int) -> Tensor:
        """Which features were active on none of the last so many tokens, `[L, F]`. A feature that was active within a
        step counts as active at its end."""
        return self.idle >= window

    @property
    def density(self) -> Tensor:
        """On which share of all tokens each feature was active, `[L, F]` float64."""
        return self.count.double() / self.tokens.clamp_min(1)


@torch.no_grad()
def revive(
    lens: CrosslayerTranscoder,
    dead: Tensor,
    read: Tensor,
    written: Tensor,
    seed: int,
    rate: float = 0.01,
    strength: float = 0.2,
) -> Tensor:
    """Give dead features what the living ones get wrong.

    Each takes a token, drawn by its squared error: its encoder reads the direction of that token, its bias lets it be
    active on a share of all tokens, and its decoder writes the direction of that token's error.

    Args:
        lens: changed in place.
        dead: `[L, F]`.
        read, written: of some tokens, `[N, L, d]`, as the model has them.
        seed: of the draw; a function of the training's seed and step.
        rate: share of these tokens on which a revived feature is active.
        strength: length of its decoder row over the mean length of those of living features.

    Returns:
        How many were revived in each layer, `[L]`.
    """
    generator = torch.Generator().manual_seed(seed)
    output = lens(read, limit=0.0)
    error = lens.targets.standardiser(written.float()) - output.reconstruction
    x, norms = lens.standardiser(read.float()), lens.norms()
    for i, source in enumerate(lens.layers_in_order):
        rows = dead[i].to(x.device).nonzero(as_tuple=True)[0]
        if not len(rows):
            continue
        own = error[:, i : i + source.reach].flatten(1)
        chances = own.square().sum(1).double().cpu() + 1e-12
        chosen = torch.multinomial(chances, len(rows), replacement=True, generator=generator).to(x.device)
        living = ~dead[i].to(x.device)
        whole = living if bool(living.any()) else ~living
        direction = nn.functional.normalize(x[chosen, i], dim=1) * source.W_enc[whole].norm(dim=1).mean()
        source.W_enc[rows] = direction
        if source.log_threshold is not None:
            source.log_threshold[rows] = math.log(lens.config.threshold)
        # As large as what is active now, on `rate` of the tokens.
        reached = (x[:, i] @ direction.T).sort(dim=0, descending=True).values
        edge = reached[min(len(x) - 1, max(0, round(rate * len(x)) - 1))]
        source.b_enc[rows] = _cutoff(lens, output.active[i]) - edge + 1e-4 * edge.abs()
        if source.W_dec is not None:  # tied ones belong to living features of other layers as well
            wanted = strength * norms[i][whole].mean()
            source.W_dec[rows] = nn.functional.normalize(own[chosen], dim=1) * wanted
    return dead.sum(1)


def _cutoff(lens: CrosslayerTranscoder, features: Tensor) -> float:
    """What a pre-activation has to exceed to be active: the threshold, or with a (Batch)TopK about the least of what
    is active on a token."""
    if lens.config.k is None:
        return lens.config.threshold if lens.config.nonlinearity == "jumprelu" else 0.0
    least = features.masked_fill(features <= 0, torch.inf).amin(1)
    return float(least[least.isfinite()].mean()) if bool(least.isfinite().any()) else 0.0


@torch.no_grad()
def forget_moments(optimizer: torch.optim.Optimizer, lens: CrosslayerTranscoder, dead: Tensor) -> None:
    """Set the optimizer's moments of revived features to 0: they are those of other weights."""
    for i, source in enumerate(lens.layers_in_order):
        for parameter in (source.W_enc, source.b_enc, source.log_threshold, source.W_dec):
            state = {} if parameter is None else optimizer.state.get(parameter, {})
            for value in state.values():
                if isinstance(value, Tensor) and parameter is not None and value.shape == parameter.shape:
                    value[dead[i].to(value.device)] = 0
