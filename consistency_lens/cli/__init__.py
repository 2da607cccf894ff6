"""The command line: dataclasses with help texts, a YAML recipe for defaults, options that override it.

`main` answers what needs no model at once; everything slow is imported for a command that is run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..version import PROJECT, own_version
from .help.page import page_for
from .parsing.commands import recipe_names

if TYPE_CHECKING:
    from .parsing.recipes import load_recipe
    from .parsing.request import Request, parse

__all__ = ["Request", "load_recipe", "main", "parse", "recipe_names"]

_HOMES = {"Request": ".parsing.request", "load_recipe": ".parsing.recipes", "parse": ".parsing.request"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    said = f"{PROJECT} {own_version()}" if words == ["--version"] else page_for(words)
    if said is None:
        from .commands.command import run_command

        return run_command(words, own_process=argv is None)
    if os.environ.get("RANK", "0") == "0":  # one of several processes speaks
        print(said)
    return 0


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return vars(import_module(_HOMES[name], __name__))[name]
