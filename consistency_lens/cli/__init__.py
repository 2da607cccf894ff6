"""The command line: dataclasses with help texts, a YAML recipe for defaults, options that override it.

One file per command: `extract`, `train` (and `runs` for all in turn), `report` for evaluate, `explain`.
"""

import logging

# Imported along with transformers' arguments, it warns of a faster way to compute 4-bit weights on a CPU.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

from .commands.command import main  # noqa: E402
from .parsing.recipes import load_recipe, recipe_names  # noqa: E402
from .parsing.request import Request, parse  # noqa: E402

__all__ = ["Request", "load_recipe", "main", "parse", "recipe_names"]
