"""Where the report of a lens lies, and what the other tabs want to know of it."""

from __future__ import annotations

from pathlib import Path

from brought import brought_by
from lenses import run_of

from consistency_lens import BadInput, Report

AGAIN = "Make one with: run_lens.py evaluate --lens FOLDER."


def folder_of(lens: Path) -> Path | None:
    """The folder of the report that belongs to a lens; none where it brings none along."""
    folders = (lens / "report", run_of(lens) / "report", lens)
    return next((folder for folder in folders if (folder / "report.json").is_file()), None)


def measured_since(lens: Path) -> int:
    """The first position in a document that was measured; 0 where nobody knows."""
    folder = folder_of(lens)
    try:
        with brought_by(lens, "report", AGAIN):
            bins = Report.load(folder).by_position if folder else []
            return min((int(row["first"]) for row in bins), default=0)
    except BadInput:  # the tab of the report says so; the words can be read all the same
        return 0
