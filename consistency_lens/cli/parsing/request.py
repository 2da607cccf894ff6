"""From words to a `Request`: recipe first, then options."""

from __future__ import annotations

import os
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser
from transformers.utils import CONFIG_NAME

from ...activations import CorpusArguments
from ...auto import DEFAULT_FAMILY, FAMILIES, family_at, find_foreign, lens_folder
from ...base.family_run import FamilyRun
from ...errors import BadInput
from ...options import WHY
from ...schema import require_place
from .arguments import (
    ExplainArguments,
    ExportArguments,
    PublishArguments,
    ReportArguments,
    RunArguments,
    SubjectArguments,
)
from .commands import COMMANDS, COMMON, RUN_ALL, program, recipe_names
from .options import OWN_NAMES, TRAINING, Options, options_of
from .read_by import unread
from .recipes import as_options, less, load_recipe, meant

DEMO = "demo"
_ANSWERS = {"yes", "no", "true", "false", "t", "f", "y", "n", "1", "0"}


@dataclass
class Request:
    """What was asked for.

    Args:
        command: one of `COMMANDS`, or `run` for all of them in turn.
        values: every option by its name on the command line, settled.
        options: those of its family.
        words: what stands behind the command: what `explain` reads, the folder that `export` writes, or what a command
            of the family's own takes.
        given: the fields that options name, whatever a recipe says.
        notes: what whoever typed it should know.
        config: the recipe that was named. `recipe`: the name of one of ours, also where it is the default.
        folder: of the run, once it has one; `named_itself`: nobody has named it.
        stage: of a whole run: the command whose work it is at.
    """

    command: str
    values: dict[str, Any]
    options: Options = field(default_factory=lambda: options_of(DEFAULT_FAMILY), compare=False)
    words: tuple[str, ...] = ()
    given: frozenset[str] = field(default=frozenset(), compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)
    config: str | None = field(default=None, compare=False)
    recipe: str | None = field(default=None, compare=False)
    folder: Path | None = field(default=None, compare=False)
    named_itself: bool = field(default=False, compare=False)
    stage: str = field(default="", compare=False)

    def part(self, arguments: Any) -> Any:
        """One of the dataclasses, filled in."""
        own = self.options.own_names(arguments)
        given = {f.name: self.values[own.get(f.name, f.name)] for f in fields(arguments) if f.init}
        if own and given["output_dir"] is None:
            given["output_dir"] = arguments().output_dir
        return arguments(**given)

    @property
    def family(self) -> FamilyRun:
        """What the family adds to this run."""
        return self.options.run(self.values)

    @property
    def subject(self) -> SubjectArguments:
        return self.part(SubjectArguments)

    @property
    def corpus(self) -> CorpusArguments:
        return self.part(CorpusArguments)

    @property
    def extraction(self) -> Any:
        """How the family's data is made."""
        return self.part(self.options.run.data_options)

    @property
    def run(self) -> RunArguments:
        return self.part(RunArguments)

    @property
    def report(self) -> ReportArguments:
        return self.part(ReportArguments)

    @property
    def explanation(self) -> ExplainArguments:
        return self.part(ExplainArguments)

    @property
    def export(self) -> ExportArguments:
        return self.part(ExportArguments)

    @property
    def publishing(self) -> PublishArguments:
        return self.part(PublishArguments)

    @property
    def use_cpu(self) -> bool:
        return self.values["use_cpu"]

    def training(self, **changes: Any) -> Any:
        """For the trainer, with `changes`. transformers refuses some combinations without naming a field."""
        given = {name: self.values[name] for name in self.options.fields_of(TRAINING)}
        try:
            return self.options.training(**given | changes)
        except BadInput:
            raise
        except (ValueError, ImportError) as error:
            raise BadInput("training", "these arguments", "Change what it names.", why=str(error)) from error


class Parser(HfArgumentParser):
    """One among several processes says what is wrong with the options that all were given."""

    def error(self, message: str) -> Any:
        let_the_main_process_speak()
        super().error(message)


def new_parser(options: Options) -> Parser:
    usage = f"{program()} [command] [--config recipe] [--any_field value]"
    parser = Parser([options.as_class()], prog="run_lens.py", allow_abbrev=False, add_help=False, usage=usage)
    parser.add_argument("--config", default=None)
    parser.add_argument("text", nargs="?", default=None)
    return parser


def parse(argv: Sequence[str]) -> Request:
    """Command and arguments: recipe first, then options. Where no model and no text is named, the offline demo."""
    words = list(argv)
    command = RUN_ALL
    if words and not words[0].startswith("-"):
        command = words.pop(0)
        if command not in COMMANDS and command not in (every := [*COMMANDS, *own_commands()]):
            raise BadInput("command", command, f"{meant(command, every)}Use one of {', '.join(every)}.")
    options = options_of(_family_of(command, words))
    theirs = (*COMMON, *options.run.commands, *options.run.uses)
    if command not in theirs:
        fix = f"Use one of {', '.join(name for name in theirs if name != RUN_ALL)}."
        raise BadInput("command", command, fix, why=f"a lens of the family {options.family} has no such command")
    parser = new_parser(options)
    words = _answered(words, options)
    absent = object()
    nothing = Namespace(**dict.fromkeys([*options.names, "config", "text"], absent))
    known, unknown = parser.parse_known_args(words, nothing)
    explicit = {name: value for name, value in vars(known).items() if value is not absent}
    _require_places(explicit)
    text = explicit.pop("text", None)  # argparse puts its default there all the same
    behind = [*([] if text is None else [text]), *(word for word in unknown if not word.startswith("-"))]
    most = {"explain": len(behind), "export": 1}.get(command, 0)
    if command in options.run.uses:
        most = len(options.run.uses[command].words)
    unknown = [word for word in unknown if word.startswith("-")] + behind[most:]
    if unknown:
        given = unknown[0].split("=")[0]
        if given in COMMANDS:
            raise BadInput("command", given, f"Write it before all options: run_lens.py {given} --...")
        if (gone := options.former.get(given.removeprefix("--"))) is not None:
            raise BadInput("option", given, gone.instead, WHY)
        every = ["--" + name for name in options.names]
        raise BadInput("option", given, f"{meant(given, every)}--help_all lists all options.")
    recipe = less(_recipe(command, explicit), explicit)
    _require_family(recipe, options)
    _require_places(recipe)
    # What comes later wins. A list at the end of the recipe ends there, and words that are no options were counted.
    said = [*as_options(recipe, options), f"--family={options.family}", *words]
    settled = vars(parser.parse_known_args(said)[0])
    values = {name: settled[name] for name in options.names}
    if command == "extract":
        for shared, own in OWN_NAMES.items():
            if own not in explicit and (shared in explicit or (shared in recipe and own not in recipe)):
                values[own] = values[shared]
    for name, why in options.run.unused.items():
        if values[name] is not None:
            raise BadInput(name, values[name], "Leave it out.", why=f"of a {options.family} lens {why}")
    if values["other_models"] and not options.run.several:
        fix = "Leave them out."
        raise BadInput("other_models", values["other_models"], fix, why=f"a {options.family} lens serves one model")
    config, ours = explicit.get("config"), _of_ours(command, explicit)
    notes = tuple(unread(command, explicit, options))
    request = Request(command, values, options, tuple(behind[:most]), frozenset(explicit), notes, config, ours)
    request.subject.others  # noqa: B018  raises where a name is missing or stands twice
    return request


def own_commands() -> dict[str, str]:
    """Commands that only one family has, and the family."""
    return {name: family for family in FAMILIES for name in options_of(family).run.uses}


def _family_of(command: str, words: Sequence[str]) -> str:
    """The family that an option names, or else the recipe, or else the run that a lens lies in, or else the one that
    alone has the command."""
    given = ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("family", "config", "lens"):
        given.add_argument(f"--{name}", default=None)
    said = given.parse_known_args(list(words))[0]
    if said.family is not None:
        return said.family
    named = {name: value for name, value in vars(said).items() if value is not None}
    default = _alone_with(command)
    if not named:
        return default
    _require_places(named)
    recipe = _recipe(command, named | {"model_name_or_path": None})
    if not recipe and said.lens is not None:
        place = lens_folder(said.lens)
        if (Path(place) / CONFIG_NAME).is_file() or (Path(place).is_dir() and find_foreign(place)):
            return family_at(place)
    return str(recipe.get("family", DEFAULT_FAMILY)) if recipe else default


def _alone_with(command: str) -> str:
    """The family of a command that not all have; the default one where several do."""
    if command in (*COMMON, RUN_ALL):
        return DEFAULT_FAMILY
    if command not in COMMANDS:
        return own_commands()[command]
    return next(name for name in FAMILIES if command in options_of(name).run.commands)


def _require_family(recipe: Mapping[str, Any], options: Options) -> None:
    """Raise where a recipe, perhaps the demo's that nobody has named, is that of another family."""
    theirs = str(recipe.get("family", DEFAULT_FAMILY))
    if recipe and theirs != options.family:
        own = [name for name in recipe_names() if load_recipe(name).get("family", DEFAULT_FAMILY) == options.family]
        fix = f"Name a recipe of it with --config ({', '.join(own)}), or a model and texts."
        raise BadInput("family", options.family, fix, why=f"the recipe is of the family {theirs}")


def _require_places(given: Mapping[str, Any]) -> None:
    """Raise where a folder, a file or a repository has a name that none can have."""
    for name in PLACES & given.keys():
        for value in given[name] if isinstance(given[name], list) else [given[name]]:
            if isinstance(value, str):
                require_place(value, name)


def _recipe(command: str, explicit: dict[str, Any]) -> dict[str, Any]:
    """What the named recipe says; where none is named, that of the run a lens lies in, or the demo's."""
    if explicit.get("config"):
        return load_recipe(explicit["config"])
    if command in ("explore", "publish", "env", "skill"):
        return {}
    if command in ("evaluate", "explain", "export") or command not in (*COMMANDS, RUN_ALL):
        home = run_of(explicit["lens"]) if explicit.get("lens") else None
        return load_recipe(str(home / RECIPE)) if home else {}
    if explicit.keys() & {"model_name_or_path", "dataset_name", "train_file", "activations"}:
        return {}
    if command in ("extract", "plan"):
        fix = f"Name a model and its texts, or a recipe: --config {' | '.join(recipe_names())}."
        raise BadInput("model_name_or_path", None, fix, why=f"{command} needs to know what it is about")
    return load_recipe(DEMO)


def _of_ours(command: str, explicit: Mapping[str, Any]) -> str | None:
    """The packaged recipe that a run follows, which gives its newest run a name."""
    if "config" in explicit:
        return explicit["config"] if explicit["config"] in recipe_names() else None
    named = explicit.keys() & {"model_name_or_path", "dataset_name", "train_file", "activations"}
    return None if named or command not in (RUN_ALL, "train") else DEMO


PLACES = {"lens", "activations", "activations_dir", "output_dir", "train_file", "dataset_name", "model_name_or_path"}
PLACES |= {"gguf_file", "resume_from_checkpoint", "repo_id", "hub_model_id", "hub_dataset_id", "logging_dir", "config"}
RECIPE, RECORD = "recipe.yaml", "run.json"


def run_of(lens: str) -> Path | None:
    """The run folder that a lens lies in, if it lies in one."""
    return next(
        (f for f in (Path(lens), Path(lens).parent) if (f / RECORD).is_file() and (f / RECIPE).is_file()), None
    )


def _answered(words: Sequence[str], options: Options) -> list[str]:
    """`--flag` as `--flag=true`, unless an answer follows: what comes behind a flag may be a text."""
    flags = {f"--{name}" for name, kind in options.kinds.items() if kind in (bool, bool | None)}
    found = []
    for word, after in zip(words, [*words, "-"][1:], strict=True):
        alone = word in flags and after.lower() not in _ANSWERS
        found.append(f"{word}=true" if alone else word)
    return found


def rank() -> int:
    """Of this process; also before there is a `PartialState` to ask."""
    return int(os.environ.get("RANK", "0"))


def let_the_main_process_speak() -> None:
    """Wait before an error is shown: where the main process fails alike, the launcher ends this one meanwhile."""
    if rank() > 0:
        time.sleep(5)
