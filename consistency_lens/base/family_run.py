"""`FamilyRun`: what the command line asks of a family, and `Run`, what it offers in return.

`run_lens.py` knows what all lenses have in common: a model, texts, data, a training, a report. What is true of one
family only (its options, what its data must hold, how a new lens begins, which baselines it trains) it asks for here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

from transformers import TrainerCallback

from ..errors import BadInput
from ..frozen import FrozenLM
from .engines.engine import Engine
from .modeling import LensModel
from .trainer import LensTrainer


class Run(ABC):
    """A run of the command line, as a family sees it.

    Args:
        folder: of the run.
        values: every option by its name, settled.
        resumed: the checkpoint that it goes on from.
    """

    folder: Path
    values: Mapping[str, Any]
    resumed: Path | None

    @abstractmethod
    def training(self, place: Path, **changes: Any) -> Any:
        """The arguments of a training in a folder, with changes."""

    @abstractmethod
    def trainer(self, lens: LensModel, training: Any, data: Any, title: str = "training") -> LensTrainer:
        """A trainer on the run's data, with the run's own progress bar."""

    @abstractmethod
    def model_for_another(self, lens: LensModel) -> FrozenLM:
        """The frozen model for a second lens beside this one: another copy where adapters lie on its weights."""

    @abstractmethod
    def say(self, text: str) -> None:
        """A line on the console."""


class FamilyRun:
    """A family subclasses it, and says what is its own. It is made anew for each command.

    Args:
        values: every option by its name, settled.
    """

    lens_options: ClassVar[type]  # a dataclass: what a new lens is made with
    data_options: ClassVar[type]  # a dataclass: how the family's data is made
    extraction: ClassVar[Callable[..., Any]]  # makes the data from a corpus: `open`, `bill`, `run`
    data: ClassVar[Any]  # what it makes: `load(place)` opens it
    more_options: ClassVar[Mapping[str, type]] = {}  # title of the group -> a dataclass
    commands: ClassVar[tuple[str, ...]] = ()  # beside those that every family has
    several: ClassVar[bool] = False  # whether a lens may serve several models
    companions: ClassVar[tuple[str, ...]] = ()  # folders of lenses that a run keeps for the report
    memory_advice: ClassVar[Sequence[str]] = ()  # what makes a training smaller, the cheapest first

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def part(self, options: type) -> Any:
        """One of the family's dataclasses, filled in."""
        return options(**{f.name: self.values[f.name] for f in fields(options) if f.init})

    @property
    def tag(self) -> str:
        """The end of the name that a run gives itself."""
        return ""

    def sites(self, offered: Sequence[str]) -> list[str]:
        """Which of the sites of the data a new lens reads. Default: all of them."""
        return list(offered)

    def require_options(self, whole_run: bool) -> None:
        """Raise where options contradict each other, before anything is opened.

        Args:
            whole_run: the data is made in the same run.
        """

    def require_model(self, config: Any, tokenizer: Any) -> None:
        """Raise where a model cannot serve, from its configuration and tokenizer alone."""

    def require_extraction(self, extraction: Any) -> None:
        """Raise where the training of a whole run could do nothing with the data that it is about to make."""

    def require_data(self, data: Any) -> None:
        """Raise where the data lacks what the options ask of it."""

    def require_engine(self, engine: Engine) -> None:
        """Raise where the family's baselines cannot be trained under an engine."""

    def streamed(
        self, extraction: Any, data: Any, frozen: FrozenLM, within: Callable[[Callable[[], Any]], Any], buffer: int
    ) -> Any:
        """The data with its training part read from the corpus meanwhile, in the place of what is stored.

        Args:
            extraction: of the whole corpus, by the rules of the stored data.
            data: what is stored.
            frozen: the model that reads.
            within: calls what reads.
            buffer: how many rows of the stream are shuffled together.
        """
        raise BadInput("stream_activations", True, "Leave it out.", why="this family has no data that streams")

    def first_of(self, data: Any, tokenizer: Any) -> list[str]:
        """Lines that show people the first of what was extracted."""
        return []

    def new_lens(self, frozen: FrozenLM, data: Any, sites: Sequence[str]) -> LensModel:
        """An untrained lens; nothing is random but what the seed decides."""
        raise NotImplementedError

    def callbacks(self, trainer: LensTrainer, folder: Path) -> list[TrainerCallback]:
        """What the family adds to the training of the run's own lens."""
        return []

    def report_options(self, companions: Mapping[str, LensModel]) -> dict[str, Any]:
        """What `evaluate_lens` is given beside the lens: the lenses that the run kept, by the name of their folder."""
        return {}

    def after_training(self, run: Run, lens: LensModel, data: Any, steps: int) -> None:
        """Train what the report compares the lens with, if the family has such baselines."""
