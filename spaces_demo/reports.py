"""Where the report of a lens lies, and what the other tabs want to know of it."""

from __future__ import annotations

from pathlib import Path

from brought import brought_by, lies_in
from lenses import Lenses, run_of

from consistency_lens import AutoLens, BadInput, Report

AGAIN = "Make one with: run_lens.py evaluate --lens FOLDER."


def folder_of(lens: Path) -> Path | None:
    """The folder of the report that belongs to a lens; none where it brings none along."""
    folders = (lens / "report", run_of(lens) / "report", lens)
    found = ((folder, home_of(lens, folder)) for folder in folders)
    return next((folder for folder, home in found if lies_in(folder / "report.json", home)), None)


def home_of(lens: Path, folder: Path) -> Path:
    """What the files of a report may not lead out of: the lens, or the run that both belong to."""
    return lens if folder in (lens, lens / "report") else run_of(lens)


def latest(lenses: Lenses, name: str) -> tuple[Path, str]:
    """The folder of a lens with its report as it is now, and a sentence about it. What came from the Hub is
    asked for again; where the Hub does not answer, the report is the one that came with the lens."""
    shown = lenses.folders[name]
    if name not in lenses.on_hub:
        return shown, ""
    repo, revision = lenses.on_hub[name]
    try:
        found = AutoLens.download(repo, revision, report_only=True)
    except BadInput as error:
        return shown, f"As it was when this page was started: {error.why or error.fix}."
    return found, "" if found == shown else f"Of a later commit ({found.name[:7]}) than the lens that is shown here."


def measured_since(lens: Path) -> int:
    """The first position in a document that was measured; 0 where nobody knows."""
    folder = folder_of(lens)
    try:
        with brought_by(lens, "report", AGAIN):
            bins = Report.load(folder).by_position if folder else []
            return min((int(row["first"]) for row in bins), default=0)
    except BadInput:  # the tab of the report says so; the words can be read all the same
        return 0
