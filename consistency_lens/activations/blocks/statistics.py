"""Mean, variance and norms of a block at each site, in float64 and on the block's own device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ..statistics import SiteStatistics, binned


def statistics_of(values: Tensor, sites: Sequence[str]) -> dict[str, SiteStatistics]:
    """Statistics of `[n, L, d]` at each of L sites; `SiteStatistics.of` is the slow twin."""
    found = {}
    for number, site in enumerate(sites):
        exact = values[:, number].double()
        mean = exact.mean(0)
        norms = exact.norm(dim=1).cpu().numpy()
        squares = exact.sub_(mean).square_().sum(0)
        extremes = np.array([norms.min(), norms.max()])
        found[site] = SiteStatistics(len(exact), mean.cpu().numpy(), squares.cpu().numpy(), *binned(norms), extremes)
    return found


def merged(parts: Sequence[dict[str, SiteStatistics]], sites: Sequence[str], size: int) -> dict[str, SiteStatistics]:
    """All parts together, in their order: the same blocks always give the same digits."""
    found = {site: SiteStatistics.empty(size) for site in sites}
    for part in parts:
        found = {site: found[site].merge(part[site]) for site in sites}
    return found
