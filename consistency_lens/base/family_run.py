"""`FamilyRun`: what the command line asks of a family, and `Run`, what it offers in return.

`run_lens.py` knows what all lenses have in common: a model, texts, data, a training, a report. What is true of one
family only (its options, what its data must hold, how a new lens begins, which baselines it trains) it asks for here.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from transformers import TrainerCallback

from ..errors import BadInput
from ..frozen import FrozenLM
from .engines.engine import Engine
from .explaining import Positions
from .modeling import LensModel
from .saving.checkpoint import checkpoints
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

    def train_beside(self, trainer: LensTrainer, place: Path) -> None:
        """Train a lens that is kept beside the run's own, from its last checkpoint on; checkpoints do not stay."""
        found = checkpoints(place)
        trainer.train(str(found[-1]) if found else None)
        trainer.save_lens(place)
        if trainer.is_world_process_zero():
            for checkpoint in checkpoints(place):
                shutil.rmtree(checkpoint)

    @abstractmethod
    def model_for_another(self, lens: LensModel) -> FrozenLM:
        """The frozen model for a second lens that is trained beside this one: a copy where adapters lie on it."""

    @abstractmethod
    def say(self, text: str) -> None:
        """A line on the console."""


class Use(ABC):
    """A command that uses a lens, as its family sees it.

    Args:
        values: every option by its name, settled.
        words: what stands behind the command, by the names that it gave them; those that were left out are missing.
        given: the options that were named, whatever a recipe says.
    """

    values: Mapping[str, Any]
    words: Mapping[str, str]
    given: frozenset[str]

    @property
    @abstractmethod
    def config(self) -> Any:
        """The configuration of the lens that is named; no weights are opened."""

    @abstractmethod
    def lens(self) -> Any:
        """That lens, without its models."""

    @abstractmethod
    def loaded(self) -> Any:
        """That lens with all of its models, as `explain` loads it."""

    @abstractmethod
    def load_models(self, lens: Any, names: Sequence[str]) -> None:
        """Load these of its models alone, compared with those that it was made for."""

    @abstractmethod
    def say(self, text: str) -> None:
        """A line on the console; the result of a command goes to stdout instead."""

    def word(self, name: str, fix: str) -> str:
        """One of the words; raise where it was left out."""
        if name not in self.words:
            raise BadInput(name, None, fix)
        return self.words[name]


@dataclass(frozen=True)
class Command:
    """A command of one family, beside those that every family has. It uses a lens that is there.

    Args:
        help: what it does, for the list of commands.
        act: does it.
        words: names of the words that may stand behind it, in order.
    """

    help: str
    act: Callable[[Use], None]
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What a family recommends for a training, before anything is loaded.

    Args:
        record: its numbers, for --json.
        shown: tables and lines for people, in order.
        notes: lines behind the commands.
        chosen: options of the training, by name.
        data: options of an extraction that has to come before it; None where the training is part of a whole run.
        engine: that the training is started with: a file of `ds_configs/`.
        processes: how many there are.
        per_machine: and how many of them a machine has room for.
    """

    record: Mapping[str, Any]
    shown: Sequence[Any]
    notes: Sequence[str]
    chosen: dict[str, Any]
    data: dict[str, Any] | None
    engine: str
    processes: int
    per_machine: int


class FamilyRun:
    """A family subclasses it, and says what is its own. It is made anew for each command.

    Args:
        values: every option by its name, settled.
    """

    lens_options: ClassVar[type]  # a dataclass: what a new lens is made with
    data_options: ClassVar[type]  # a dataclass: how the family's data is made
    extraction: ClassVar[Callable[..., Any]]  # makes the data from a corpus: `open`, `bill`, `run`
    data: ClassVar[Any]  # what it makes: `load(place)` opens it
    data_title: ClassVar[str] = "the rows"  # of those options
    unused: ClassVar[Mapping[str, str]] = {}  # options of all families that do nothing here -> why
    more_options: ClassVar[Mapping[str, type]] = {}  # title of the group -> a dataclass
    read_by: ClassVar[
        Mapping[str, tuple[str, ...]]
    ] = {}  # such a title, or an option of it -> the commands, for --help
    commands: ClassVar[tuple[str, ...]] = ()  # beside those that every family has
    uses: ClassVar[Mapping[str, Command]] = {}  # by name: commands that no other family has
    several: ClassVar[bool] = False  # whether a lens may serve several models
    companions: ClassVar[tuple[str, ...]] = ()  # folders of lenses that a run keeps for the report
    explain_options: ClassVar[tuple[str, ...]] = ()  # options of the family that change what `explain` finds
    across: ClassVar[str] = ""  # what such a row may hold: its values become columns of the table, one row per token
    exports: ClassVar[tuple[str, ...]] = ()  # other tools that `export` writes a lens for
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

    def texts(self, named: Any) -> Any:
        """What is read of the texts that are named: the same `CorpusArguments`, or with the columns that the data
        needs."""
        return named

    def corpus(self, named: Any) -> Any:
        """The texts that are named, where the family opens them itself; None where they are opened as all are."""
        return None

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

    @property
    def compared(self) -> Mapping[str, str]:
        """Lenses that options name, for the report: argument of `evaluate_lens`, and option -> where the lens lies."""
        return {}

    def require_lens(self, config: Mapping[str, Any]) -> None:
        """Raise where a lens cannot do what the options of `explain` ask of it, by its saved configuration alone."""

    def explain(self, lens: LensModel, text: str, positions: Positions) -> list[dict[str, Any]]:
        """The rows that `explain` shows of a text."""
        return lens.explain(text, positions)

    def cell_of(self, row: Mapping[str, Any]) -> str:
        """The explanation of one of these rows, for a table."""
        return str(row["explanation"])

    def plan(self, config: Any, data_options: Any, given: frozenset[str]) -> Plan:
        """What `plan` recommends, where that is among the family's `commands`.

        Args:
            config: of the model.
            data_options: how the data is made.
            given: the options that are settled, because somebody named them.
        """
        raise NotImplementedError

    def export(self, lens: LensModel, to: str, folder: Path, data: Callable[[], Any]) -> Path:
        """Write a lens for one of the tools of `exports`.

        Args:
            lens: with its model.
            to: the tool.
            folder: a new one, or that of an earlier export.
            data: opens the data of the run, where something has to be measured on it.
        """
        raise BadInput("to", to, "Leave it.", why="a lens of this family is written for no other tool")

    def beside(self, lens: LensModel, data: Any, folder: Path) -> None:
        """Write into the folder of a lens that was evaluated what the family keeps beside the weights; its card comes
        after it. One process calls it."""

    def report_form(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What `evaluate_lens` is given of how the lens was trained, by the names of its settings."""
        return {}

    def after_training(self, run: Run, lens: LensModel, data: Any, steps: int) -> None:
        """Train what the report compares the lens with, if the family has such baselines."""
