"""A command of one family, which uses a lens that is there: what it is offered."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from accelerate import PartialState
from rich.console import Console
from rich.markup import escape

from ...auto import FAMILIES, lens_folder, read_config
from ...base.family_run import Use
from ...finding import find_subject
from ...frozen import FrozenModels
from ..opening import device_of, in_turn, model_path, place_of
from ..parsing.request import Request
from .report import load_lens, named_lens, require_family


def use(request: Request) -> None:
    """Do what the family's command does, in one process."""
    named_lens(request)
    require_family(request)
    if PartialState().is_main_process:
        request.options.run.uses[request.command].act(_Used(request))


class _Used(Use):
    def __init__(self, request: Request) -> None:
        self.request, self.values, self.given = request, request.values, request.given
        names = request.options.run.uses[request.command].words
        self.words = dict(zip(names, request.words, strict=False))

    @property
    def place(self) -> str:
        return lens_folder(named_lens(self.request))

    @cached_property
    def config(self) -> Any:
        config, _ = read_config(self.place, token=self.values["hub_token"])
        kind = FAMILIES[self.request.options.family].load("config")
        return kind.from_dict(kind.require_record(config, self.place))

    def lens(self) -> Any:
        kind = FAMILIES[self.request.options.family].load("model")
        return kind.from_pretrained(self.place, token=self.values["hub_token"])

    def loaded(self) -> Any:
        return load_lens(self.request)

    def load_models(self, lens: Any, names: Sequence[str]) -> None:
        subject, found = self.request.subject, []
        places = {next(iter(lens.config.origins)): subject.model_name_or_path, **subject.others}
        for name in names:
            place, origin = places.get(name), lens.config.origins[name]
            if place is not None:
                place = model_path(subject) if place == subject.model_name_or_path else place_of(place)
            device, trusted = device_of(subject), subject.trust_remote_code
            model = find_subject(origin, place, device, self.values["hub_token"], trusted)
            model.name = name
            FrozenModels([model]).require_same({name: origin})
            found.append(model)
        lens.models = in_turn(FrozenModels(found), subject)

    def say(self, text: str) -> None:
        Console(stderr=True).print(escape(text), soft_wrap=True, highlight=False)
