"""`evaluate`: the clean pass of each batch runs once, and the lens and every control are compared with it.

Shapes: B rows.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..base.comparing import apply_lens
from ..base.modeling import LensModel
from ..frozen import FrozenLM, FrozenModels
from .about import LENS
from .assemble import assemble
from .bootstrap import Records, Samples
from .family import Control, FamilyReport, Seen
from .held_out import HeldOut, moved
from .overflow import require_finite
from .quantities import ROW
from .report import Report

OF_LENS = "the lens: A to a code and back"


def evaluate(
    lens: LensModel,
    frozen: FrozenLM | Sequence[FrozenLM] | Mapping[str, FrozenLM],
    data: Any,
    family: FamilyReport,
    held_out: HeldOut | None = None,
    training_history: Sequence[Mapping[str, Any]] | None = None,
    progress: bool = True,
) -> Report:
    """Every number of a lens on held-out documents, with intervals, beside every control.

    Args:
        lens: what is evaluated.
        frozen: the model that it was made for, or the models by name.
        data: rows of that model, as the family reads them.
        family: its controls and numbers; a new instance.
        held_out: which rows.
        training_history: rows with `step` and what was measured then, for the curves.
        progress: show a bar.
    """
    held_out, began = held_out or HeldOut(), time.monotonic()
    models = FrozenModels.of(frozen)
    for each in (lens, *family.lenses):
        each.config.require_subject(models)
    family.begin(lens, models, data, held_out)
    study = _Study(family)
    with ExitStack() as modes:
        for each in (lens, *family.lenses):
            modes.callback(each.train, each.training)
            each.eval()
        batches = family.batches(lens, models, data, held_out)
        bar = tqdm(batches, desc="evaluating", unit="batch", disable=None if progress else True)
        for number, batch in enumerate(bar):
            study.add(_seen(lens, models, moved(batch, models.first.device), held_out.horizon, held_out.seed + number))
    require_finite(study.records, list(lens.config.written), models.first.dtype)
    samples, origin, origins = study.samples(held_out.seed), lens.config.origin, lens.config.origins
    counted = {"rows": len(study.documents), "documents": samples.documents}
    return assemble(
        samples,
        family,
        study.groups,
        study.definitions,
        np.array(study.positions) if study.positions else None,
        held_out.horizon,
        lens={
            "family": lens.config.model_type,
            "sites": list(lens.config.sites or []),
            "subject": origin.model_id,
            "weights": origin.weights,
            **({"models": {name: each.model_id for name, each in origins.items()}} if len(origins) > 1 else {}),
        },
        data=family.described(data, held_out) | counted | {"seconds": round(time.monotonic() - began, 1)},
        training=list(training_history or ()),
        models=list(models) if len(models) > 1 else (),
    )


def _seen(lens: LensModel, models: FrozenModels, batch: Mapping[str, Any], horizon: int, seed: int) -> Seen:
    applied = apply_lens(lens, models, batch, horizon)
    return Seen(applied.code, applied.edits, applied.comparison, lens, models, batch, seed)


class _Study:
    """What is measured, batch after batch."""

    def __init__(self, family: FamilyReport) -> None:
        self.family, self.records = family, Records()
        self.groups: dict[str, list[str]] = {}
        self.definitions: dict[str, str] = {}
        self.documents: list[int] = []
        self.positions: list[int] = []
        self.subsets: dict[str, list[np.ndarray]] = {}

    @torch.no_grad()
    def add(self, seen: Seen) -> None:
        """One batch: the edits that no code stands behind, the lens, its controls."""
        self.documents += seen.batch["doc_id"].tolist()
        if "position" in seen.batch:
            self.positions += seen.batch["position"].tolist()
        self.records.add(ROW, self.family.of_rows(seen) | _clean(seen))
        of_lens = Control(LENS, LENS, OF_LENS, seen.edits)
        for control in chain(self.family.edits(seen), [of_lens], self.family.controls(seen)):
            self._measure(seen, control)
        self.family.describe(seen, self.records)
        for name, mask in self.family.subsets(seen).items():
            self.subsets.setdefault(name, []).append(mask.cpu().numpy())

    def _measure(self, seen: Seen, control: Control) -> None:
        """What the model predicts under these edits, and what the family measures of them."""
        if control.group:
            names = self.groups.setdefault(control.group, [])
            if control.name not in names:
                names.append(control.name)
            self.definitions[control.name] = control.definition
        found = _after(seen.comparison.measure(control.edits), seen.comparison.mask)
        self.records.add(control.name, found | self.family.measure(seen, control.edits))
        if control.name == "self":
            _require_exact(found)

    def samples(self, seed: int) -> Samples:
        """With what shows over all rows only."""
        self.family.finish(self.records)
        subsets = {name: np.concatenate(parts) for name, parts in self.subsets.items()}
        return Samples(self.records, np.array(self.documents), subsets, seed=seed)


def _clean(seen: Seen) -> dict[str, Tensor]:
    """The cross-entropy of the clean pass. Without edits the model makes that very pass, unless it reads another batch
    then, as where soft tokens stand for a text."""
    found = seen.comparison.measure([])
    return {"ce": found["ce"]} if "ce" in found and not found["kl"].any() else {}


def _after(found: dict[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
    """With the KL over the horizon alone, without P."""
    if "kl_horizon" not in found:
        return found
    columns = mask.sum(1)
    beyond = (found["kl_horizon"] * columns - found["kl"]) / (columns - 1)
    return found | {"kl_after": torch.where(columns > 1, beyond, torch.nan)}


def _require_exact(found: Mapping[str, Tensor]) -> None:
    """What is there, written in its own place, must do nothing: else no other number means anything."""
    for measure in ("kl", "kl_horizon"):
        worst = float(found[measure].abs().max()) if measure in found else 0.0
        if worst != 0:
            raise RuntimeError(
                f"The swap is not exact: an activation in its own place moves the frozen model's output by a "
                f"{measure} of {worst:.2g}. No number of this lens could be trusted. Something in the forward "
                "pass depends on more than its input: dropout, or kernels that are not deterministic."
            )
