"""Writes `options.json`, which the pages of `--help` are made of: `python -m consistency_lens.cli.help.making`.

The options are fields of dataclasses, some of them transformers' own, whose import takes longer than reading a page. A
test compares the file with them.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, Field
from pathlib import Path
from typing import Any

from ...activations import CorpusArguments
from ...auto import FAMILIES
from ..parsing.arguments import (
    ExplainArguments,
    ExportArguments,
    PublishArguments,
    ReportArguments,
    SubjectArguments,
)
from ..parsing.commands import COMMANDS, COMMON, RUN_ALL
from ..parsing.options import OWN_NAMES, TRAINING, USUAL, Options, help_of, options_of

FILE = Path(__file__).with_name("options.json")
TRAINS, USES = (RUN_ALL, "train"), ("evaluate", "explain", "export")
COMPUTES = (*TRAINS, "extract", *USES)
# Which commands read the options of a dataclass; TRAINS where it is not here, and what a family says of its own.
_OF_GROUP = {
    SubjectArguments: (*COMPUTES, "plan"),
    CorpusArguments: (*TRAINS, "extract", "explain"),
    ReportArguments: (RUN_ALL, "evaluate"),
    ExplainArguments: ("explain",),
    ExportArguments: ("export",),
    PublishArguments: ("publish",),
}
# And of a single option, where that is another thing. `uses` stands for the commands that a family alone has.
_OF_OPTION = {
    "family": (*COMPUTES, "plan"),
    "activations": (*TRAINS, "evaluate", "export", "plan"),
    "dataset_name": (*TRAINS, "extract", "explain", "plan"),
    "train_file": (*TRAINS, "extract", "explain", "plan"),
    "lens": (*USES, "publish", "uses"),
    "cpu_threads": (*COMPUTES, "uses"),
    "json": ("explain", "evaluate", "plan", "env"),
    "output": ("explain", "compress"),
    "output_dir": (*TRAINS, "evaluate"),
    "overwrite": (RUN_ALL, "extract", "explain"),
    "use_cpu": (*COMPUTES, "uses"),
    "hub_token": (*COMPUTES, "publish", "uses"),
    "push_to_hub": (*TRAINS, "extract"),
    "revision": (*COMPUTES, "plan", "publish"),
    "model_name_or_path": (*COMPUTES, "plan", "uses"),
    "other_models": (*COMPUTES, "uses"),
    "repo_id": ("publish", "export"),
    "to": ("export", "skill"),
    "private": ("publish", "export", "extract"),
    "hub_dataset_id": ("publish", "extract"),
}


def made() -> str:
    """The file as it has to be: an option that families share stands there once."""
    families: dict[str, Any] = {}
    found: dict[str, dict[str, Any]] = {}
    for family in FAMILIES:
        options = options_of(family)
        own = {name: {"help": use.help, "words": use.words} for name, use in options.run.uses.items()}
        commands = [*COMMON, *options.run.commands, *own]
        families[family] = {"groups": list(options.groups), "commands": commands, "uses": own}
        for each in _shown(options):
            key = json.dumps(each, ensure_ascii=False)
            found.setdefault(key, {**each, "families": []})["families"].append(family)
    rows = ",\n".join(json.dumps(each, ensure_ascii=False) for each in found.values())
    return f'{{"families": {json.dumps(families, ensure_ascii=False)},\n"options": [\n{rows}\n]}}\n'


def _shown(options: Options) -> list[dict[str, Any]]:
    """Every option but those of transformers' own that one seldom needs, with the commands that read it."""
    found = []
    for group, arguments in options.groups.items():
        fields = options.fields_of(group)
        ours = sorted(fields, key=lambda name: name in options.inherited) if group == TRAINING else list(fields)
        for name in ours:
            usual = group != TRAINING or name in options.first
            if name in options.run.unused or (not usual and name in options.inherited and name not in USUAL):
                continue
            one = {"group": group, "name": name, "help": described(name, fields[name]), "usual": usual}
            commands = _commands(options, group, arguments, name)
            found.append({**one, "commands": [each for each in commands if each != "extract" or name not in _RENAMED]})
            if name in _RENAMED:  # `extract` trains nothing, and takes the plain names
                found.append({**one, "name": _RENAMED[name], "commands": ["extract"]})
    return found


_PLANNED = {"max_steps", "gradient_accumulation_steps", "activation_checkpointing"}  # of transformers' own
_RENAMED = {own: shared for shared, own in OWN_NAMES.items()}


def _commands(options: Options, group: str, arguments: type, name: str) -> list[str]:
    run = options.run
    by_family = run.read_by.get(name, run.read_by.get(group))
    if arguments is run.data_options:
        of_group: tuple[str, ...] = (RUN_ALL, "extract", "plan")
    elif arguments in (run.lens_options, options.training) and (name not in options.inherited or name in _PLANNED):
        of_group = (*TRAINS, "plan")
    else:
        of_group = _OF_GROUP.get(arguments, TRAINS)
    wanted = by_family or _OF_OPTION.get(name, of_group)
    if "uses" in wanted:
        wanted = (*wanted, *run.uses)
    theirs = {*COMMON, *run.commands, *run.uses}
    return [each for each in (RUN_ALL, *COMMANDS, *run.uses) if each in wanted and each in theirs]


def described(name: str, given: Field[Any]) -> str:
    """The help of an option, with its choices and its default."""
    choices = given.metadata.get("choices")
    said = help_of(name, given) + (f" One of {', '.join(map(str, choices))}." if choices else "")
    default = given.default_factory() if given.default_factory is not MISSING else given.default
    if name in ("output_dir", "activations_dir") or default in (None, [], "", MISSING):
        return said
    return f"{said} (default: {' '.join(default) if isinstance(default, list) else default})"


if __name__ == "__main__":
    FILE.write_text(made(), encoding="utf-8")
