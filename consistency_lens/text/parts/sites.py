"""Which of a lens's sites a row was read at, and what differs from site to site: scales and maps.

Shapes: N rows, S sites of a lens, d hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import BadInput
from ...frozen import Edit

# The number of a site in `LensConfig.sites`: one for all rows (-1: the last, which is the deepest), or one for each
# row, `[N]`.
At = int | Tensor


class SiteMaps(nn.Module):
    """A linear map for each site, the identity at first.

    In the decoder its bias is the depth tag: a learned embedding of the site, added to the vector that stands for the
    placeholder. It lies with the lens's own heads, so that each kind of trainable part has it.

    Args:
        sites: how many.
        size: d.
    """

    def __init__(self, sites: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(size).repeat(sites, 1, 1))
        self.bias = nn.Parameter(torch.zeros(sites, size))

    def forward(self, vectors: Tensor, at: At) -> Tensor:
        """`[N, d]` through the map of the site that each row was read at."""
        if isinstance(at, int):
            return F.linear(vectors, self.weight[at], self.bias[at])
        # Each map over all rows: gathering the maps of rows would take N matrices.
        every = [F.linear(vectors, *own) for own in zip(self.weight, self.bias, strict=True)]
        return chosen(every, at)


def maps_of(sites: int, size: int) -> nn.Linear | SiteMaps:
    """The map of a part, which is the identity until it learns; a lens of one site has a plain layer."""
    if sites > 1:
        return SiteMaps(sites, size)
    found = nn.Linear(size, size)
    with torch.no_grad():
        found.weight.copy_(torch.eye(size))
        found.bias.zero_()
    return found


def chosen(every: Sequence[Tensor], at: At) -> Tensor:
    """Of what each site has for all rows, `[N, d]` each, the row's own."""
    if isinstance(at, int):
        return every[at]
    at = at.to(every[0].device)
    return torch.stack(list(every))[at, torch.arange(len(at), device=at.device)]


def of_row(values: Sequence[float], at: At, like: Tensor) -> float | Tensor:
    """A number of each site, for rows: one for all, or `[N]` on the device of another tensor."""
    if isinstance(at, int):
        return values[at]
    return torch.tensor(values, dtype=torch.float32, device=like.device)[at.to(like.device)]


def read_of(activations: Mapping[str, Tensor], sites: Sequence[str], at: At) -> Tensor:
    """`[N, d]`: of each row what was read at its own site."""
    if isinstance(at, int):
        return activations[sites[at]]
    return chosen([activations[site] for site in sites], at)


def written_at(sites: Sequence[str], vectors: Tensor, at: At) -> list[Edit]:
    """One edit for all rows of one site; else one for each site, which leaves the rows of other sites alone.

    Each holds the vectors of all rows.
    """
    if isinstance(at, int):
        return [Edit(sites[at], vectors)]
    return [Edit(site, vectors, rows=at == number) for number, site in enumerate(sites)]


def numbered(sites: Sequence[str], layers: int | str | Sequence[int | str]) -> list[int]:
    """The numbers of sites that somebody named, by whole names or by the numbers of layers, or `all` of them; raise
    where the lens does not read one."""
    if layers == "all":
        return list(range(len(sites)))
    found = set()
    for named in str(layers).split(",") if isinstance(layers, int | str) else layers:
        known = [n for n, site in enumerate(sites) if str(named).strip() in (site, site.rpartition(".")[2])]
        if len(known) != 1:
            why = "it reads several at that layer" if known else "the lens reads no such site"
            raise BadInput("layers", named, f"Name some of {', '.join(sites)}, or all.", why)
        found.add(known[0])
    if not found:
        raise BadInput("layers", layers, f"Name some of {', '.join(sites)}, or all.")
    return sorted(found)
