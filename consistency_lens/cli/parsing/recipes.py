"""Recipes: YAML files that set defaults, checked key by key."""

from __future__ import annotations

import json
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import yaml

from ...auto import DEFAULT_FAMILY
from ...errors import BadInput
from ...options import WHY
from ...schema import plain, require
from .commands import packaged, recipe_names
from .options import USUAL, Options, options_of

# What a recipe says of its texts: of no use where the command line names a file instead of a dataset, or one instead
# of a file.
SOURCE = (
    *["dataset_name", "dataset_config", "dataset_revision", "split", "train_file", "sample_by"],
    *["text_column", "keep_columns"],
)
SECRETS = {"hub_token"}
PERMISSIONS = {"trust_remote_code"}  # of whoever types; a recipe may be somebody else's
PLAN = "the plan"


LARGEST = 1 << 16  # characters of a recipe; ours have some thousand


def load_recipe(name_or_path: str) -> dict[str, Any]:
    """The fields a recipe sets, as it says them; those that its `family` does not have raise."""
    path = Path(name_or_path)
    own = packaged(name_or_path)
    if not path.is_file() and not own.is_file():
        raise BadInput(
            "config",
            name_or_path,
            f"Give the path of a YAML file, or one of our recipes: {', '.join(recipe_names())}.",
        )
    try:
        text = (path if path.is_file() else own).read_text(encoding="utf-8")
        if len(text) > LARGEST:  # which would take the parser minutes
            raise ValueError(f"it has {len(text)} characters, and a recipe at most {LARGEST}")
        record = yaml.safe_load(text) or {}
    except (yaml.YAMLError, OSError, ValueError) as error:
        raise BadInput("config", name_or_path, "Mend the YAML.", why=str(error)) from error
    except RecursionError as error:
        raise BadInput("config", name_or_path, "Mend the YAML.", why="its values lie too deep") from error
    if not isinstance(record, dict):
        raise BadInput("config", name_or_path, "Write one 'field: value' on each line.", why="it is not a mapping")
    # Aliases of YAML may say in a line what has a million values.
    require(record, plain, "config", name_or_path, "Write one 'field: value' on each line.")
    options = options_of(str(record.get("family", DEFAULT_FAMILY)))
    names, former = options.names, options.former
    for key in list(record):
        if key in former and former[key].off in (None, record[key]):
            del record[key]
        elif key in former:
            raise BadInput(key, record[key], former[key].instead, WHY)
        elif key in PERMISSIONS:
            raise BadInput(key, record[key], f"Write --{key} on the command line.", why="a recipe cannot permit it")
        elif key not in names:
            fix = f"{meant(str(key), names)}--help_all lists all fields."
            raise BadInput("config", key, fix, why="an unknown field")
    return record


def less(record: dict[str, Any], explicit: dict[str, Any]) -> dict[str, Any]:
    """A recipe without what the opposite of an explicit option would say beside it."""
    beaten: set[str] = set()
    for this, other in [("resume", "overwrite"), ("overwrite", "resume")]:
        if explicit.get(this) and other not in explicit:
            beaten.add(other)
    for this, other in [("dataset_name", "train_file"), ("train_file", "dataset_name")]:
        if this in explicit and other not in explicit and record.get(other):
            beaten.update(SOURCE)
    if record.get("dataset_name") not in (None, explicit.get("dataset_name", record.get("dataset_name"))):
        beaten |= {"dataset_config", "dataset_revision"}  # of the one that the recipe names
    return {name: value for name, value in record.items() if name not in beaten}


def as_options(record: dict[str, Any], options: Options) -> list[str]:
    """A recipe as command line options, so that types and choices are checked there; null and [] set nothing."""
    types, words = options.kinds, []
    for name, value in record.items():
        allowed = _alternatives(types[name])
        many = any(get_origin(kind) is list for kind in allowed)
        if isinstance(value, dict) and any(kind is dict or get_origin(kind) is dict for kind in allowed):
            value = json.dumps(value)
        if isinstance(value, dict) or (isinstance(value, list) and not (many and len(allowed) == 1)):
            raise BadInput("config", name, "Give a single value.", why=f"the recipe gives it {value!r}")
        items = {item for kind in allowed if get_origin(kind) is list for item in get_args(kind)}
        if (str in allowed or many) and value is not None:
            fitting: tuple[type, ...] = (str, bool) if bool in allowed else (str,)
            fitting = (str, int, float) if name in options.schedules else fitting
            fitting = (int, float) if items & {int, float} else fitting
            for item in value if isinstance(value, list) else [value]:
                if type(item) not in fitting:
                    why = f"YAML reads {item!r} there, which is no text"
                    raise BadInput("config", name, f"Put the text in quotes, as in {name}: 'no'.", why)
        if isinstance(value, list):
            words += [f"--{name}", *map(str, value)] if value else []
        elif value is not None:
            words.append(f"--{name}={value}")
    return words


def _alternatives(kind: Any) -> list[Any]:
    """Of `X | Y | None`, X and Y."""
    parts = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    return [part for part in parts if part is not NoneType]


def as_recipe(values: dict[str, Any]) -> str:
    """What was settled, as YAML that `--config` takes again: no secrets, no empty values, and of transformers' unusual
    fields, those of a plan and the default family the ones that somebody changed."""
    options = options_of(values["family"])
    parts = ["# The run as it was settled: pass this file to --config to do the same again."]
    for group in options.groups:
        given = {}
        for name, known in options.fields_of(group).items():
            value = values[name]
            unusual = group == PLAN or name == "family" or (name in options.inherited and name not in USUAL)
            if name not in SECRETS | PERMISSIONS and value not in (None, [], known.default if unusual else None):
                given[name] = value
        if given:
            dumped = yaml.safe_dump(given, sort_keys=False, allow_unicode=True, width=110)
            parts.append(f"# {group}\n{dumped.rstrip()}")
    return "\n\n".join(parts) + "\n"


def meant(given: str, known: Any) -> str:
    near = get_close_matches(given, list(known), 1)
    return f"Did you mean {near[0]!r}? " if near else ""
