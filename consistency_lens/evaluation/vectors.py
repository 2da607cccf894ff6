"""Edits that no lens has made, and how near restored vectors are to those that were read.

Shapes: B rows, d hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..base.comparing import compare_vectors
from ..base.modeling import LensModel
from ..frozen import Edit, FrozenModels
from ..objectives import cosine_of, direction_error_of
from .bootstrap import Records
from .family import EDIT, EXAMPLES, Control, FamilyReport, Seen
from .held_out import HeldOut
from .quantities import AT_P, ROW

BATCH = 32
Vectors = dict[str, Tensor]  # site -> [B, d]

EDITS = {
    "self": "A in its own place: the swap itself does nothing",
    "mean": "the mean training activation",
    "resample": "the activation of another document",
    "noise": "a random direction at the norm of A",
    "zero": "a vector of zeros",
}


class VectorReport(FamilyReport):
    """Of lenses that read one vector per row at each site, and write one in its place.

    The rows of a batch may be of some of the lens's sites alone: then `activations` holds these, and no others.
    """

    quantities = AT_P
    compared = ("kl_recovered", "kl_horizon_recovered", "kl_after_recovered", "top1", "loss_recovered")
    kept = ("kl_recovered", "kl_horizon_recovered", "kl_after_recovered")

    def begin(self, lens: LensModel, models: FrozenModels, data: Any, held_out: HeldOut) -> None:
        super().begin(lens, models, data, held_out)
        self.horizon = held_out.horizon
        self.means = {site: data.mean(site).to(models.first.device) for site in lens.config.sites or []}
        self.directions: list[tuple[tuple[str, ...], Tensor]] = []  # of each batch, with its sites
        self.stored_difference = 0.0

    def shown(self, lens: LensModel, models: FrozenModels, data: Any, split: str) -> Iterator[dict[str, Any]]:
        """The first rows in an order that mixes documents: the same ones for every lens."""
        rows, collate = data.splits[split], data.collator(pair=False)
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()[:EXAMPLES]
        for first in range(0, len(order), BATCH):
            yield collate([rows[i] for i in order[first : first + BATCH]])

    def described(self, data: Any, held_out: HeldOut) -> dict[str, Any]:
        return super().described(data, held_out) | {"stored_difference": self.stored_difference}

    def stored(self, seen: Seen) -> Vectors:
        """A as the rows hold it, which is what the lens reads."""
        held = seen.batch["activations"]
        return {site: held[site].float() for site in self.means if site in held}

    def baseline(self, seen: Seen) -> list[Edit]:
        return [Edit(site, self.means[site].expand_as(vector)) for site, vector in self.stored(seen).items()]

    def edits(self, seen: Seen) -> Iterator[Control]:
        stored, pair = self.stored(seen), seen.batch["pair"]
        own = seen.prefix.read(list(stored), self.horizon)  # A as the clean pass computes it
        apart = (as_one(own) - as_one(stored)).norm(dim=-1) / as_one(own).norm(dim=-1)
        self.stored_difference = max(self.stored_difference, float(apart.max()))
        generator = torch.Generator().manual_seed(seen.seed)
        written: dict[str, Vectors] = {
            "self": own,
            "mean": {site: self.means[site].expand_as(vector) for site, vector in stored.items()},
            "resample": {site: vector[pair.to(vector.device)] for site, vector in stored.items()},
            "noise": {site: noise_like(vector, generator) for site, vector in stored.items()},
            "zero": {site: torch.zeros_like(vector) for site, vector in stored.items()},
        }
        for name, vectors in written.items():
            yield Control(name, EDIT, EDITS[name], [Edit(site, vector) for site, vector in vectors.items()])

    def of_rows(self, seen: Seen) -> dict[str, Tensor]:
        stored = self.stored(seen)
        original = as_one(stored)
        self.directions.append((tuple(stored), F.normalize(original, dim=-1).cpu()))
        return {"spread": (original - as_one({site: self.means[site] for site in stored})).square().sum(-1)}

    def measure(self, seen: Seen, edits: Sequence[Edit]) -> dict[str, Tensor]:
        stored = self.stored(seen)
        by_site = {str(edit.site): edit.value.float() for edit in edits if isinstance(edit.value, Tensor)}
        if not stored.keys() <= by_site.keys():
            return {}  # it writes elsewhere, or a value that there is inside the pass alone
        original = as_one(stored)
        restored = as_one({site: by_site[site] for site in stored}).expand_as(original)
        mean = as_one({site: self.means[site].unsqueeze(0) for site in stored})
        return compare_vectors(restored, original) | {
            "direction_error": direction_error_of(restored, original),
            "cosine_centred": cosine_of(restored - mean, original - mean),
        }

    def finish(self, records: Records) -> None:
        """How far directions are spread round the mean one of their own sites."""
        parts: dict[tuple[str, ...], list[Tensor]] = {}
        for sites, directions in self.directions:
            parts.setdefault(sites, []).append(directions)
        means = {sites: torch.cat(found).mean(0) for sites, found in parts.items()}
        spread = [(directions - means[sites]).square().sum(-1) for sites, directions in self.directions]
        records.add(ROW, {"direction_spread": torch.cat(spread)})


def noise_like(vector: Tensor, generator: torch.Generator) -> Tensor:
    """A random direction at the norm of each vector."""
    direction = torch.randn(vector.shape, generator=generator).to(vector)
    return F.normalize(direction, dim=-1) * vector.norm(dim=-1, keepdim=True)


def as_one(vectors: Mapping[str, Tensor]) -> Tensor:
    """All sites of a row as one vector."""
    return torch.cat([vector.float() for vector in vectors.values()], dim=-1)
