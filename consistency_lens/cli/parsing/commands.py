"""What can be asked for: the commands, and the recipes that come with the package. It imports nothing slow."""

from __future__ import annotations

import sys
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

RUN_ALL = "run"
COMMANDS = {
    "extract": "read a corpus at some sites of a model, and store the rows as Arrow",
    "train": "train a lens on rows that are there",
    "evaluate": "measure a lens on held-out documents, beside every control",
    "explain": "show the code of each token, and what the model then predicts",
    "explore": "open the page on which a lens is read, changed and compared",
    "plan": "estimate what fits on which GPU, and how long it takes, from a model's configuration alone",
    "env": "print what a bug report needs to say about this machine",
    "export": "write a lens in the format of another tool",
    "skill": "write what a coding agent should know of this package into a folder of skills",
    "publish": "put a lens with its card and report on the Hub, and a page to look at it",
}
# What every family has.
COMMON = (RUN_ALL, "extract", "train", "evaluate", "explain", "explore", "publish", "env", "skill")


def packaged(recipe: str) -> Traversable:
    """The file of a recipe of ours, whether there is one or not."""
    return files("consistency_lens").joinpath("recipes", f"{recipe}.yaml")


def recipe_names() -> list[str]:
    folder = files("consistency_lens").joinpath("recipes")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def program() -> str:
    """How this program was started: as `run_lens.py` of a checkout, or as the command of an installed package."""
    name = Path(sys.argv[0]).name
    if name == "run_lens.py":
        return "python run_lens.py"
    return "python -m consistency_lens" if name == "__main__.py" else "consistency-lens"
