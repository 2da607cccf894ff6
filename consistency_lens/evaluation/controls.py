"""What a lens is measured against: edits and codes that pass through the same judge.

Shapes: B rows, d hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..base.modeling import Code, LensModel
from ..errors import BadInput
from ..frozen import Edit, FrozenLM, Prefix

LENS, SHUFFLED, REWORDED, TAIL = "lens", "shuffled_activation", "reworded", "context_tail"
TRAINED_TAIL = "context_tail_trained"  # a rival that learned to read such tails
# A text control that knows what the subject will say: what one gets without a lens. It is no sign of blindness.
AHEAD = "own_continuation"
EDITS = ("self", "mean", "resample", "noise", "zero")

Vectors = dict[str, Tensor]  # site -> [B, d]
Reword = Callable[[Sequence[str], int], Sequence[str]]


def as_edits(vectors: Mapping[str, Tensor]) -> list[Edit]:
    return [Edit(site, vector) for site, vector in vectors.items()]


def edit_controls(own: Vectors, stored: Vectors, means: Vectors, pair: Tensor, seed: int) -> dict[str, Vectors]:
    """Vectors that no lens has made.

    Args:
        own: A as the clean pass computes it; `stored`: A as the rows hold it, which is what a lens reads.
        means: mean training activation of each site, `[d]`.
        pair: the row of another document, for each row.
        seed: of the noise.
    """
    generator = torch.Generator().manual_seed(seed)

    def noise(vector: Tensor) -> Tensor:
        direction = torch.randn(vector.shape, generator=generator).to(vector)
        return torch.nn.functional.normalize(direction, dim=-1) * vector.norm(dim=-1, keepdim=True)

    return {
        "self": own,
        "mean": {site: means[site].expand_as(vector) for site, vector in stored.items()},
        "resample": {site: vector[pair.to(vector.device)] for site, vector in stored.items()},
        "noise": {site: noise(vector) for site, vector in stored.items()},
        "zero": {site: torch.zeros_like(vector) for site, vector in stored.items()},
    }


def code_controls(
    lens: LensModel,
    code: Code,
    batch: Mapping[str, Any],
    prefix: Prefix,
    frozen: FrozenLM,
    seed: int,
    reword: Reword | None = None,
) -> dict[str, dict[str, Code]]:
    """Group -> name -> code: `text` controls, what looks `ahead`, and the lens's own code `tampered` with."""
    rivals = lens.rivals(batch, prefix, frozen, seed)
    tampered = lens.tampered(code, prefix, frozen, seed) | reworded(lens, code, seed, reword)
    return {
        "text": {SHUFFLED: code.take(batch["pair"])} | {n: c for n, c in rivals.items() if n != AHEAD},
        "ahead": {n: c for n, c in rivals.items() if n == AHEAD},
        "tampered": tampered,
    }


def reworded(lens: LensModel, code: Code, seed: int, reword: Reword | None) -> dict[str, Code]:
    """The code in a world's other words for it, where there is such a world."""
    if reword is None:
        return {}
    said = [str(row["explanation"]) for row in lens.explain(code)]
    return {REWORDED: lens.reread(list(reword(said, seed)))}


def require_tail(codes: Mapping[str, Code], rivals: Mapping[str, LensModel]) -> None:
    """Rival lenses read the context's tail, so the lens has to make such a code."""
    if rivals and TAIL not in codes:
        fix = f"Leave them out: this family of lenses has no {TAIL} for them to read."
        raise BadInput("rivals", sorted(rivals), fix)
