"""`FrozenModels`: several frozen models by name, in an order; a lens of one model has one of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from ..errors import BadInput
from .frozen_lm import FrozenLM
from .loading.provenance import Provenance
from .seat import Seat
from .sites import Edit, Site


class FrozenModels(Mapping[str, FrozenLM]):
    """Frozen models by their names, in the order in which they were given.

    Models may lie on different devices and differ in tokenizer, width and dtype. The first one is where an edit goes
    that names no model.

    Args:
        models: at least one; each has a name of its own (`FrozenLM.name`).
    """

    def __init__(self, models: Sequence[FrozenLM]) -> None:
        if not models:
            raise BadInput("frozen", [], "Give at least one frozen model.")
        model: Any
        for model in models:
            if not isinstance(model, FrozenLM):
                fix = "Give a FrozenLM, a list of them, or a dict of them by name."
                raise BadInput("frozen", type(model).__name__, fix)
        names = [model.name for model in models]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            fix = "Give each a name of its own: FrozenLM.from_pretrained(..., name=NAME)."
            raise BadInput("frozen", names, fix, why=f"two models are named {twice!r}")
        self._models = dict(zip(names, models, strict=True))

    @classmethod
    def of(cls, frozen: FrozenLM | Sequence[FrozenLM] | Mapping[str, FrozenLM]) -> FrozenModels:
        """One model, a sequence, or a mapping whose keys are the models' own names."""
        if isinstance(frozen, FrozenModels):
            return frozen
        if not isinstance(frozen, Mapping):
            return cls(frozen if isinstance(frozen, Sequence) else [frozen])
        models = cls([*frozen.values()])
        if list(models) != list(frozen):
            fix = "Use each model's own name as its key, or give a list."
            raise BadInput("frozen", list(frozen), fix, why=f"the models are named {list(models)}")
        return models

    def __getitem__(self, name: str) -> FrozenLM:
        return self._models[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)

    def __repr__(self) -> str:
        listed = ", ".join(f"{name}: {model.model_id}" for name, model in self.items())
        return f"FrozenModels({listed})"

    @property
    def first(self) -> FrozenLM:
        """The model that an edit goes to which names none."""
        return next(iter(self.values()))

    @property
    def only(self) -> FrozenLM:
        """The one model; raise where there are several."""
        if len(self) != 1:
            raise BadInput("frozen", list(self), "Give one frozen model.", why="one model is needed here")
        return self.first

    def deal(self, edits: Edit | Sequence[Edit]) -> dict[str, list[Edit]]:
        """The edits of each model by its name, in their order; a model without edits has an empty list.

        An edit that names no model (`Edit.lm`) goes to the first one.
        """
        dealt: dict[str, list[Edit]] = {name: [] for name in self}
        for edit in [edits] if isinstance(edits, Edit) else edits:
            name = self.first.name if edit.lm is None else edit.lm
            if name not in dealt:
                why = f"an edit at {edit.site} is meant for a model that is not here"
                raise BadInput("lm", name, f"Name one of {', '.join(self)}.", why=why)
            dealt[name].append(edit)
        return dealt

    def provenance(self, sites: Mapping[str, Sequence[str | Site]]) -> dict[str, Provenance]:
        """What identifies each model and these of its sites.

        Args:
            sites: name of the model -> its sites; at least one each (`embed` where only what enters is written).
        """
        self.require_names(list(sites), "the sites")
        return {name: model.provenance(*sites[name]) for name, model in self.items()}

    def to(self, devices: str | torch.device | Mapping[str, str | torch.device]) -> FrozenModels:
        """Move all models to one device, or those that are named to a device each."""
        places = devices if isinstance(devices, Mapping) else dict.fromkeys(self, devices)
        for name in places:
            if name not in self:
                raise BadInput("devices", name, f"Name one of {', '.join(self)}.", why="no model has this name")
        for name, device in places.items():
            self[name].to(device)
        return self

    def take_turns(self, device: str | torch.device) -> Seat:
        """From now on only the model that is in use lies on the device; the others wait in the CPU's memory."""
        seat = Seat(device)
        for model in self.values():
            model.share(seat)
        return seat

    def require_names(self, names: Sequence[str], theirs: str = "the lens") -> None:
        """Raise unless the models have these names, in this order."""
        if list(self) == list(names):
            return
        missing = [name for name in names if name not in self]
        unknown = [name for name in self if name not in names]
        if missing:
            why, fix = f"{theirs} also needs {', '.join(missing)}", "Give all of its models"
        elif unknown:
            why, fix = f"{theirs} knows no {', '.join(unknown)}", "Leave out the others"
        else:
            why, fix = "they are in another order", "Keep the order"
        raise BadInput("frozen", list(self), f"{fix}: {theirs} names {list(names)}.", why=why)

    def require_same(
        self,
        origins: Mapping[str, Provenance],
        ours: str = "the model",
        theirs: str = "the lens",
        ignore: Sequence[str] = (),
    ) -> None:
        """Raise unless these are the models of `origins`, in their order, each with its sites.

        Raises:
            BadInput: where models are missing, too many, or in another order.
            ProvenanceMismatch: where another model goes by one of the names; both sides are shown.
        """
        self.require_names(list(origins), theirs)
        for name, origin in origins.items():
            side = ours if len(self) == 1 else f"{ours} {name!r}"
            model = self[name]
            # Of another model first: it may have no such layers, and a site that is missing would hide why.
            replace(model.provenance("embed"), sites=origin.sites).require_same(origin, side, theirs, ignore)
            model.provenance(*origin.sites).require_same(origin, side, theirs, ignore)
