"""Standardisation: mean and scale of each site, from all training data, kept in the lens and folded into its weights.

Shapes: N tokens, L sites, d hidden size.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ...errors import BadInput


class Moments:
    """Mean and variance of each coordinate of each site, streamed in float64, in parts that merge (Chan's update).

    Args:
        count: of tokens.
        mean: `[L, d]`.
        squares: `[L, d]`, summed squared distance from the mean.
    """

    def __init__(self, count: int, mean: Tensor, squares: Tensor) -> None:
        self.count, self.mean, self.squares = count, mean.double(), squares.double()

    @classmethod
    def of(cls, values: Tensor) -> Moments:
        """The moments of `[N, L, d]`."""
        values = values.double()
        if not len(values):
            return cls(0, torch.zeros_like(values.sum(0)), torch.zeros_like(values.sum(0)))
        mean = values.mean(0)
        return cls(len(values), mean, (values - mean).square().sum(0))

    @classmethod
    def over(cls, batches: Iterable[Tensor]) -> Moments:
        """The moments of all `[N, L, d]`, one at a time."""
        total: Moments | None = None
        for values in batches:
            part = cls.of(values)
            total = part if total is None else total.merge(part)
        if total is None or not total.count:
            raise BadInput("activations", 0, "Give at least one token to standardise by.")
        return total

    def merge(self, other: Moments) -> Moments:
        """The moments of both parts together."""
        count = self.count + other.count
        if not count:
            return self
        shift = other.mean - self.mean
        squares = self.squares + other.squares + shift.square() * (self.count * other.count / count)
        return Moments(count, self.mean + shift * (other.count / count), squares)

    @property
    def variance(self) -> Tensor:
        return self.squares / max(1, self.count)


class Standardiser(nn.Module):
    """(x - mean) / scale and back, for L sites. Not trained, saved with the lens."""

    def __init__(self, sites: int, size: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(sites, size), requires_grad=False)
        self.scale = nn.Parameter(torch.ones(sites, size), requires_grad=False)

    @torch.no_grad()
    def fit(self, moments: Moments, kind: str) -> None:
        """Take mean and scale from data.

        Args:
            moments: of all training data.
            kind: `site`, one scale for all coordinates of a site, or `dimension`, one for each; `none` leaves
                activations as they are.
        """
        if moments.mean.shape != self.mean.shape:
            fix = f"Give moments of {list(self.mean.shape)} sites and coordinates."
            raise BadInput("statistics", list(moments.mean.shape), fix, why="they were taken of other sites")
        if kind == "none":
            return
        variance = moments.variance
        if not bool(variance.isfinite().all()):
            raise BadInput("statistics", "not finite", "Look for infinite activations, or leave them out.")
        overall = variance.mean(1, keepdim=True)
        if not bool((overall > 0).all()):
            site = int((overall <= 0).nonzero()[0, 0])
            raise BadInput("statistics", site, "Give more tokens.", why="the activations of this site never change")
        if kind == "site":
            variance = overall.expand_as(variance)
        # A coordinate that never changes would be divided by zero.
        variance = variance.clamp_min(1e-12 * overall)
        self.mean.copy_(moments.mean)
        self.scale.copy_(variance.sqrt())

    def forward(self, values: Tensor) -> Tensor:
        """`[N, L, d]` in standardised space."""
        return (values - self.mean).div_(self.scale)

    def of_site(self, site: int, values: Tensor) -> Tensor:
        """`[N, d]` of one site in standardised space."""
        return (values - self.mean[site]).div_(self.scale[site])

    def undo(self, values: Tensor) -> Tensor:
        """`[N, L, d]` in the model's own space."""
        return values * self.scale + self.mean


@torch.no_grad()
def folded_encoder(weight: Tensor, bias: Tensor, mean: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Encoder `[F, d]` and bias `[F]` that read activations as they are: W' = W / σ, b' = b - W' μ."""
    plain = weight.double() / scale.double()
    return plain.to(weight.dtype), (bias.double() - plain @ mean.double()).to(bias.dtype)


@torch.no_grad()
def folded_decoder(weight: Tensor, scale: Tensor) -> Tensor:
    """Decoder `[F, n·d]` that writes activations as they are: W' = W σ, with the scales `[n, d]` of its targets."""
    return weight * scale.reshape(-1)


@torch.no_grad()
def folded_bias(bias: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Bias of the targets `[L, d]`: b' = b σ + μ."""
    return (bias.double() * scale.double() + mean.double()).to(bias.dtype)
