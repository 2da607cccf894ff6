"""What a transcoder is compared with, each through the same pass and at the same columns as the lens.

Shapes: B rows, S columns, N = B·S tokens, L chosen layers, d hidden size, F features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...evaluation.family import EDIT, Control, Seen
from ...frozen import Edit
from ..coding.folding import with_settings
from ..modeling import CrosslayerTranscoder
from ..use.replacing import kept_columns, replaced_by
from .ablating import ablated, mean_ablated
from .definitions import ALONE, CODES, of_layer


def edits_without_lens(lens: CrosslayerTranscoder, batch: Mapping[str, Any], means: Tensor) -> Iterator[Control]:
    """`self`, `mean` and `zero`."""
    made = {
        "self": ablated(lens, batch, lambda index, own: own),
        "mean": mean_ablated(lens, batch, means),
        "zero": ablated(lens, batch, lambda index, own: torch.zeros_like(own)),
    }
    for name, edits in made.items():
        yield Control(name, EDIT, CODES[name], edits)


def each_alone(seen: Seen) -> Iterator[Control]:
    """The lens at one site, all others untouched."""
    for layer, edit in zip(seen.lens.config.window, seen.edits, strict=True):
        definition = f"the lens in the place of {edit.site} alone, all other sites untouched"
        yield Control(of_layer(layer), ALONE, definition, [edit])


def shuffled(lens: CrosslayerTranscoder, batch: Mapping[str, Any], seed: int) -> list[Edit]:
    """The lens's features, dealt to other tokens of the batch that it replaces."""
    columns = ~kept_columns(batch, batch["input_ids"]).flatten()
    places = columns.nonzero()[:, 0]
    order = torch.arange(len(columns), device=columns.device)
    mixed = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed)).to(places.device)
    # One further in a random circle: no token keeps its own.
    order[places[mixed]] = places[mixed.roll(1)]
    return replaced_by(lens, batch, lambda index, active: _taken(active, order))


def _taken(active: Any, order: Tensor) -> Any:
    return active[order] if isinstance(active, Tensor) else active.take(order)


@torch.no_grad()
def random_twin(lens: CrosslayerTranscoder, l0: float, seed: int) -> CrosslayerTranscoder:
    """A transcoder of the same shape and standardisation with weights as before any training.

    Args:
        lens: the trained one.
        l0: its active features per token and layer.
        seed: of the weights.
    """
    settings = {"nonlinearity": "topk", "k": max(1, min(lens.config.features, round(l0))), "across_layers": False}
    twin = type(lens)(with_settings(lens.config, **settings), seed).to(lens.device)
    for own, theirs in (
        (twin.standardiser, lens.standardiser),
        (twin.targets.standardiser, lens.targets.standardiser),
    ):
        own.load_state_dict(theirs.state_dict())
    twin.models = lens.models
    return twin.eval()


def components(samples: Tensor, ranks: Sequence[int]) -> list[Tensor]:
    """The first principal directions of each site, `[d, rank]`.

    Args:
        samples: training activations of what is written, `[n, L, d]`.
        ranks: how many of each site.
    """
    found = []
    for index, rank in enumerate(ranks):
        centred = samples[:, index].double() - samples[:, index].double().mean(0)
        _, vectors = torch.linalg.eigh(centred.T @ centred)
        found.append(vectors.flip(1)[:, :rank].float())
    return found


def projected(
    lens: CrosslayerTranscoder, batch: Mapping[str, Any], means: Tensor, directions: Sequence[Tensor]
) -> list[Edit]:
    """Each site's own value in a few directions, and the mean in all others."""

    def value(index: int, own: Tensor) -> Tensor:
        basis, mean = directions[index].to(own), means[index].to(own)
        return mean + (own - mean) @ basis @ basis.T

    return ablated(lens, batch, value)
