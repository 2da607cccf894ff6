"""Edits that no transcoder makes: something simple in the place of the sites that one writes.

Shapes: B rows, S columns, L chosen layers, d hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ...frozen import Edit
from ..modeling import CrosslayerTranscoder
from ..use.replacing import kept_columns


def ablated(
    lens: CrosslayerTranscoder, batch: Mapping[str, Any], value: Callable[[int, Tensor], Tensor]
) -> list[Edit]:
    """Another value at every written site, in the same columns as the lens's own edits.

    Args:
        lens: whose sites these are.
        batch: what the model reads.
        value: index of a chosen layer and what flows there, `[B, S, d]` -> what takes its place.
    """

    def at(index: int, site: str) -> Edit:
        def computed(read: Mapping[str, Tensor]) -> Tensor:
            own = read[site]
            columns = ~kept_columns(batch, own).unsqueeze(-1)
            return torch.where(columns, value(index, own).to(own), own)

        return Edit(site, computed, None, reads=(site,))

    return [at(index, site) for index, site in enumerate(lens.config.written_sites)]


def mean_ablated(lens: CrosslayerTranscoder, batch: Mapping[str, Any], means: Tensor) -> list[Edit]:
    """The mean training activation `[L, d]` at every token: what knows nothing of the text."""
    return ablated(lens, batch, lambda index, own: means[index].to(own).expand_as(own))
