"""The end of a run: a name under which the newest run of a recipe is found again, and the commands to type next."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from rich.markup import escape

from .opening import console
from .parsing.commands import program
from .parsing.request import Request


def name_newest(request: Request, folder: Path) -> Path:
    """Link `outputs/<recipe>` to a run of a packaged recipe that named itself, and return the name to use.

    What somebody has put there stays: only a link is replaced, in one step.
    """
    if request.recipe is None or not request.named_itself:
        return folder
    link = folder.parent / request.recipe
    if os.path.lexists(link) and not link.is_symlink():
        return folder
    fresh = link.with_name(f".{link.name}.part")
    fresh.unlink(missing_ok=True)
    try:
        fresh.symlink_to(folder.name, target_is_directory=True)
        os.replace(fresh, link)
    except OSError:  # a file system without links
        return folder
    return link


def show_next(request: Request, folder: Path) -> None:
    """Print what one does with a lens that has just been trained."""
    named = name_newest(request, folder)
    start, lens = program(), shlex.quote(str(named))
    lines = [
        f'{start} explain --lens {lens} "a text of your own"',
        f"{start} publish --lens {lens} --repo_id OWNER/NAME --private",
    ]
    if request.stage != "evaluate":
        lines.insert(1, f"{start} evaluate --lens {lens}")
    console.print("\n[bold]next[/]")
    for line in lines:
        console.print(f"  {escape(line)}", highlight=False, soft_wrap=True)
    loaded = f"from consistency_lens import AutoLens; lens = AutoLens.from_pretrained({str(named)!r})"
    console.print(f"  in Python: {escape(loaded)}", highlight=False, soft_wrap=True)
