"""The page of a command: its options, of one family, in groups, from `options.json`. It imports nothing slow."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..parsing.commands import COMMANDS, RUN_ALL, packaged, program, recipe_names

HELP = {"-h", "--help", "--help_all"}
WORDS = {"explain": "[TEXT ... | FILE | -]", "export": "FOLDER"}  # what stands behind a command
WIDEST, COLUMN, FIRST = 120, 30, "text"


def page_for(words: Sequence[str]) -> str | None:
    """The page that a command line asks for; None where it asks for none, or of a command that there is not."""
    if not HELP.intersection(words):
        return None
    known = json.loads(files(__package__).joinpath("options.json").read_text("utf-8"))
    command = words[0] if words[0][0] != "-" else RUN_ALL
    own = {name: family for family, about in known["families"].items() for name in about["uses"]}
    if command not in (RUN_ALL, *COMMANDS, *own):
        return None
    whole = "--help_all" in words
    width = min(WIDEST, shutil.get_terminal_size((100, 24)).columns)
    if command == RUN_ALL and not whole:
        return _front(known["families"], width)
    family = _named(words, "--family") or own.get(command) or _of_recipe(_named(words, "--config")) or FIRST
    theirs = known["families"].get(family, known["families"][FIRST])
    if command not in theirs["commands"]:
        family, theirs = next(each for each in known["families"].items() if command in each[1]["commands"])
    options = [each for each in known["options"] if family in each["families"]]
    if command != RUN_ALL:
        options = [each for each in options if command in each["commands"]]
    shown = [each for each in options if whole or each["usual"]]
    behind = " ".join(f"[{name.upper()}]" for name in theirs["uses"].get(command, {"words": []})["words"])
    about = {**COMMANDS, **{name: use["help"] for name, use in theirs["uses"].items()}}.get(command, "")
    usage = " ".join(part for part in (_start(command), "[options]", WORDS.get(command, behind)) if part)
    parts = [f"usage: {usage}", "", *textwrap.wrap(f"{about[:1].upper()}{about[1:]}." if about else "", width)]
    config = {"--config": "Recipe: a YAML file of these fields, or the name of one of ours."}
    parts += ["", *_paragraphs(config, width)]
    for title in theirs["groups"]:
        if lines := {f"--{each['name']}": each["help"] for each in shown if _group(each, command) == title}:
            parts += ["", f"{title}:", *_paragraphs(lines, width)]
    if len(shown) < len(options):
        parts += ["", f"{len(options) - len(shown)} more with --help_all."]
    if whole and command in (RUN_ALL, "train"):
        parts += ["", "Every other field of transformers' TrainingArguments is an option, too."]
    return "\n".join([*parts, "", *textwrap.wrap(f"Recipes: {', '.join(recipe_names())}.", width)])


def _group(option: Mapping[str, Any], command: str) -> str:
    """Of what trains nothing, the few options that it shares with a training are of the run."""
    return (
        "the run" if option["group"] == "training" and command not in (RUN_ALL, "train", "plan") else option["group"]
    )


def _front(families: Mapping[str, Any], width: int) -> str:
    """All commands."""
    uses = {name: use["help"] for about in families.values() for name, use in about["uses"].items()}
    parts = [f"usage: {_start('COMMAND')} [--config RECIPE] [options]", ""]
    for name, about in {**COMMANDS, **uses}.items():
        parts += textwrap.wrap(about, width, initial_indent=f"  {name:<10}", subsequent_indent=" " * 12)
    last = (
        "No command: extract, train and evaluate in turn; where no model and no text is named, the offline demo. "
        f"{program()} COMMAND --help shows the options of a command, --help_all also those that one seldom needs, and "
        "without a command all there are."
    )
    recipes = f"Recipes, for --config: {', '.join(recipe_names())}."
    return "\n".join([*parts, "", *textwrap.wrap(last, width), "", *textwrap.wrap(recipes, width)])


def _start(command: str) -> str:
    launched = program() == "python run_lens.py" and command in (RUN_ALL, "extract", "train", "evaluate")
    start = "accelerate launch run_lens.py" if launched else program()
    return start if command == RUN_ALL else f"{start} {command}"


def _named(words: Sequence[str], option: str) -> str | None:
    """The value of an option, in either spelling."""
    for word, after in zip(words, [*words[1:], ""], strict=True):
        if word == option:
            return after
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return None


def _of_recipe(name: str | None) -> str | None:
    """The family that a recipe names on a line of its own."""
    if name is None:
        return None
    path = Path(name) if Path(name).is_file() else packaged(name)
    lines = path.read_bytes().decode("utf-8", "replace").splitlines() if path.is_file() else []
    return next((line.partition(":")[2].split("#")[0].strip() for line in lines if line.startswith("family:")), None)


def _paragraphs(lines: Mapping[str, str], width: int) -> list[str]:
    found = []
    for option, about in lines.items():
        wrapped = textwrap.wrap(about, max(20, width - COLUMN)) or [""]
        first = f"  {option:<{COLUMN - 2}}"
        if len(option) > COLUMN - 4:
            found.append(f"  {option}")
            first = " " * COLUMN
        found += [first + wrapped[0], *(" " * COLUMN + line for line in wrapped[1:])]
    return found
