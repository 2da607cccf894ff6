"""`run_lens.py export`: a lens in the format of another tool, in a folder and, where one is named, on the Hub."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from accelerate import PartialState
from rich.markup import escape

from ... import hub
from ...errors import BadInput
from ...schema import require_place
from ..opening import console, open_data
from ..parsing.request import Request
from .publish import show_bill
from .report import load_lens, named_lens, require_family

_PLAIN = re.compile(r"[\w.-]+(/[\w.-]+)*")


def export(request: Request) -> None:
    """Write the folder, whole or not at all; then send it, if a repository is named."""
    given, repo, known = request.export, request.publishing.repo_id, request.options.run.exports
    named_lens(request)
    require_family(request)
    if given.to not in known:
        why = "" if known else f"a {request.options.family} lens is written for no other tool"
        raise BadInput("to", given.to, f"Write --to and one of {', '.join(known) or 'none'}.", why)
    if not request.words:
        fix = f"Name the folder to write: run_lens.py export --to {given.to} FOLDER --lens RUN."
        raise BadInput("folder", None, fix)
    (place,) = request.words
    require_place(place, "folder")
    subfolder = given.subfolder or given.to
    if given.subfolder and not repo:
        fix = "Name the repository, too: --repo_id owner/name."
        raise BadInput("subfolder", given.subfolder, fix, why="it is a folder in a repository")
    if not _PLAIN.fullmatch(subfolder) or ".." in subfolder.split("/"):
        raise BadInput("subfolder", subfolder, "Use letters, digits and . _ - with / between folders.")
    token = hub.require_token(request.values["hub_token"]) if repo else None
    lens = load_lens(request)
    if not PartialState().is_main_process:
        return
    folder = request.family.export(lens, given.to, Path(place), lambda: open_data(request))
    files = _files_of(folder)
    size = sum(path.stat().st_size for path in files.values())
    line = f"{len(files)} files for {given.to}, {size / 1e6:.1f} MB, in [bold]{escape(str(folder))}[/]"
    console.print(line, highlight=False, soft_wrap=True)
    if repo:
        _send(request, repo, subfolder, files, token)


def _files_of(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def _send(request: Request, repo: str, subfolder: str, files: Mapping[str, Path], token: str | None) -> None:
    """Into a folder of the repository; what an earlier export left there goes, and nothing else."""
    revision = request.values["revision"]
    sent = {f"{subfolder}/{name}": path for name, path in files.items()}
    show_bill(repo, "model", request.publishing.private, sent)
    place = hub.create(repo, token, request.publishing.private or None, revision=revision)
    with hub.staged(sent) as folder:
        address = hub.upload(
            folder,
            place,
            f"Upload an export to {request.export.to}",
            token,
            revision=revision,
            delete=[f"{subfolder}/*"],
        )
    console.print(f"export at [bold]{escape(address)}[/]", highlight=False, soft_wrap=True)
