"""Writes `options.json`, which the pages of `--help` are made of: `python -m consistency_lens.cli.help.making`.

The options are fields of dataclasses, some of them transformers' own, whose import takes longer than reading a page. A
test compares the file with them.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, Field
from pathlib import Path
from typing import Any

from ...auto import FAMILIES
from ..parsing.commands import COMMON
from ..parsing.options import OWN_NAMES, TRAINING, USUAL, Options, help_of, options_of
from ..parsing.read_by import commands_of

FILE = Path(__file__).with_name("options.json")
_RENAMED = {own: shared for shared, own in OWN_NAMES.items()}


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
    for group in options.groups:
        fields = options.fields_of(group)
        ours = sorted(fields, key=lambda name: name in options.inherited) if group == TRAINING else list(fields)
        for name in ours:
            usual = group != TRAINING or name in options.first
            if name in options.run.unused or (not usual and name in options.inherited and name not in USUAL):
                continue
            one = {"group": group, "name": name, "help": described(name, fields[name]), "usual": usual}
            commands = commands_of(options, group, name)
            found.append({**one, "commands": [each for each in commands if each != "extract" or name not in _RENAMED]})
            if name in _RENAMED:  # `extract` trains nothing, and takes the plain names
                found.append({**one, "name": _RENAMED[name], "commands": ["extract"]})
    return found


def described(name: str, given: Field[Any]) -> str:
    """The help of an option, with its choices and its default."""
    choices = given.metadata.get("choices")
    text = help_of(name, given) + (f" One of {', '.join(map(str, choices))}." if choices else "")
    default = given.default_factory() if given.default_factory is not MISSING else given.default
    if name in ("output_dir", "activations_dir") or default in (None, [], "", MISSING):
        return text
    return f"{text} (default: {' '.join(default) if isinstance(default, list) else default})"


if __name__ == "__main__":
    FILE.write_text(made(), encoding="utf-8")
