"""`consistency-lens skill`: what a coding agent should know of this package, put where agents look for skills."""

from __future__ import annotations

import shutil
from pathlib import Path

from ...errors import BadInput
from ..opening import console
from ..parsing.request import Request

SOURCE = Path(__file__).parents[2] / "SKILL.md"
NAME = "consistency-lens"
USUAL = ".agents/skills"  # where agents of several makers look; Claude Code: .claude/skills


def install_skill(request: Request) -> None:
    """Write the skill over an earlier one, and say where it is."""
    skills = Path(request.export.to or USUAL)
    path = skills / NAME / SOURCE.name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(SOURCE, path)
    except OSError as error:
        raise BadInput("to", str(skills), "Name a folder that can be written to.", why=str(error.strerror)) from None
    console.print(str(path), highlight=False, markup=False, soft_wrap=True)
