"""`WireRun`: what a run of the command line does for a wire, and for no other lens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ..activations.passages.formats import columns_of
from ..activations.passages.official import corpus_of
from ..base.configuration import ONE_MODEL
from ..base.family_run import FamilyRun
from ..base.modeling import LensModel
from ..frozen import FrozenModels
from .extraction import WireData, WireDataOptions, WireExtraction
from .modeling import LatentWire
from .options import WireOptions, WireReportOptions
from .parts.adding import with_one_of
from .parts.source import load_other, require_findable
from .serving.commands import USES
from .serving.options import WireUseOptions


class WireRun(FamilyRun):
    lens_options = WireOptions
    data_options = WireDataOptions
    extraction = WireExtraction
    data = WireData
    several = True
    data_title = "the passages"
    unused: ClassVar = {"report_horizon": "whole answers are compared"}
    more_options: ClassVar = {"a wire in use": WireUseOptions, "the report of a wire": WireReportOptions}
    read_by: ClassVar = {
        "a wire in use": ("answer", "serve"),
        "the report of a wire": ("run", "evaluate"),
        **dict.fromkeys(("code_length", "size", "per_line", "window"), ("compress",)),
        **dict.fromkeys(("bits", "ratio"), ("run", "train", "compress")),
        **dict.fromkeys(
            ("min_new_tokens", "first_top_p", "first_temperature", "stop_at_line"),
            ("run", "evaluate", "answer", "serve"),
        ),
        "preamble": ("run", "train", "answer"),
        **dict.fromkeys(("port", "largest_wire"), ("serve",)),
        "seed": ("run", "train", "evaluate", "answer", "serve"),
    }
    uses = USES
    memory_advice = (
        "lower --per_device_train_batch_size and raise --gradient_accumulation_steps",
        "lower --compressor_layers",
        "cut shorter passages: --passage_words 32",
    )

    @property
    def tag(self) -> str:
        options: WireOptions = self.part(WireOptions)
        if options.add_to is not None:
            return "_one_more"
        settings = options.settings()
        return f"_{settings['slots']}_vectors" if settings["slots"] else f"_{settings['ratio']:g}x"

    @property
    def compared(self) -> Mapping[str, str]:
        return {name: place for name, place in vars(self.part(WireReportOptions)).items() if place is not None}

    def report_options(self, companions: Mapping[str, LensModel]) -> dict[str, Any]:
        """How answers are decoded, which the report says."""
        return {"settings": self.part(WireUseOptions).decoding(self.values["seed"])}

    @property
    def names(self) -> list[str]:
        """Of the receivers."""
        return [ONE_MODEL, *(each.partition("=")[0] for each in self.values["other_models"])]

    def require_options(self, whole_run: bool) -> None:
        place = self.part(WireOptions).compressor_model
        if place is not None:
            require_findable(place, self.names, **self._reach)

    @property
    def _reach(self) -> dict[str, Any]:
        return {"token": self.values["hub_token"], "trust_remote_code": self.values["trust_remote_code"]}

    def texts(self, named: Any) -> Any:
        """Of questions, with the columns of their format."""
        return columns_of(self.part(WireDataOptions).rules(named))

    def corpus(self, named: Any) -> Any:
        """Published files of questions among them, which are no tables."""
        return corpus_of(self.part(WireDataOptions).rules(named))

    def new_lens(self, frozen: Any, data: WireData, sites: Sequence[str]) -> LatentWire:
        """The start that reads already, where the compressor begins with layers of a language model."""
        options, models = self.part(WireOptions), FrozenModels.of(frozen)
        if options.add_to is not None:
            return with_one_of(options.add_to, models, options.choices, self.values["hub_token"])
        settings, place = options.settings(), options.compressor_model
        if place is not None and place not in models:
            settings["compressor_model"] = load_other(place, list(models), **self._reach)
        return LatentWire.from_models(models, seed=self.values["seed"], **settings)

    def first_of(self, data: WireData, tokenizer: Any) -> list[str]:
        row = data.splits["train"][0]
        return [f"{name}: {row[name]}" for name in ("task", "passage", "prompt", "answers")]
