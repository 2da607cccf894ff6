"""The folder of an extraction from empty to complete: who may write to it, what is there already, what may go."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..errors import BadInput
from ..frozen.loading.provenance import compare_fields
from ..schema import named, plain, read_json
from .documents import SPLITS
from .manifest import read_metadata, read_statistics, require_sealed
from .storage import LAYOUT, METADATA, PROGRESS, STATISTICS, ChunkNote, CorruptShard, write_json

logger = logging.getLogger(__name__)

PLAN, COMMAND, LOCK = "plan.json", "command.json", "lock"


class ExtractionFolder:
    """One extraction's place on disk.

    `claim` comes before the weights are loaded and changes nothing that is there; `begin` comes when the work can
    really start, and only then does what shall be overwritten go.

    Args:
        path: the folder.
        resume: go on with what is there.
        overwrite: replace what is there.
    """

    def __init__(self, path: Path, resume: bool, overwrite: bool) -> None:
        self.path, self.resume, self.overwrite = path, resume, overwrite
        self._lock = FileLock(path / PROGRESS / LOCK, timeout=0)

    @property
    def complete(self) -> bool:
        return (self.path / METADATA).exists()

    @property
    def stored_bytes(self) -> int:
        """Bytes of rows that need no room any more: those that are kept, and those that will be replaced."""
        return sum(file.stat().st_size for split in SPLITS for file in (self.path / split).glob("data-*"))

    def claim(self) -> None:
        """Check that this run may write here, and keep all others out until `release`."""
        if self._lock.is_locked:
            return
        if self.resume and self.overwrite:
            raise BadInput("resume", True, "Use either --resume or --overwrite.", why="overwrite is set too")
        self._require_fitting()
        try:
            (self.path / PROGRESS).mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout:
            raise BadInput(
                "output_dir", str(self.path), "Wait for it, or use another folder.", why="another run is writing there"
            ) from None
        except OSError as error:
            raise BadInput(
                "output_dir", str(self.path), "Choose a folder that you may write to.", why=str(error)
            ) from error

    def release(self) -> None:
        self._lock.release()

    def _require_fitting(self) -> None:
        """Refuse a folder that holds something, unless it is ours and the user said what to do with it."""
        if not self.path.is_dir() or not self._foreign_or_ours():
            return
        ours = (self.path / PROGRESS).exists() or self.complete
        if self.overwrite:
            if not ours:
                raise BadInput(
                    "overwrite",
                    str(self.path),
                    "Empty it yourself if you are sure.",
                    why="what lies there is no extraction",
                )
        elif not self.resume:
            fix = "Use --resume to go on, --overwrite to start afresh, or another folder."
            raise BadInput("output_dir", str(self.path), fix, why="it is not empty")
        elif not (self.path / PROGRESS / PLAN).exists() and (not ours or self._finished_files()):
            raise BadInput(
                "resume",
                str(self.path),
                "Use an empty folder, or that of an extraction.",
                why="what lies there is no extraction that could go on",
            )

    def _foreign_or_ours(self) -> bool:
        return any(file.name != LOCK for file in self.path.rglob("*") if file.is_file())

    def _our_files(self) -> list[Path]:
        """All that an extraction writes, and what trainings keep beside it, in the order in which it may go.

        The plan goes last: as long as it is there, a run with other settings is refused, and finds no shard of this
        one. The folder for notes stays, and with it the right to overwrite.
        """
        patterns = [*LAYOUT, *(f"{split}/data-*" for split in SPLITS)]
        patterns += [f"{PROGRESS}/[0-9]*", f"{PROGRESS}/{COMMAND}*", f"{PROGRESS}/{PLAN}*"]
        patterns += [f"{split}/{start}starting-texts-*" for split in SPLITS for start in ("", ".")]
        patterns += [f"{PROGRESS}/baseline-*"]  # both of trainings
        return [file for pattern in patterns for file in sorted(self.path.glob(pattern))]

    def _finished_files(self) -> list[Path]:
        return [file for file in self._our_files() if file.suffix != ".part"]

    def begin(self, plan: Mapping[str, Any]) -> None:
        """Make room for this plan, or check that what is there follows it; forget chunks that are damaged."""
        if self.overwrite:
            for file in self._our_files():
                file.unlink()
        path = self.path / PROGRESS / PLAN
        if not path.exists():
            write_json(path, plan)
            return
        table = compare_fields(plan, _plan_in(path), ("now", "before"), plan)
        if table:
            raise BadInput("resume", f"\n{table}\n", "Start with the same settings as before, or use --overwrite.")
        for file in ChunkNote.files(self.path):
            try:
                ChunkNote.read(file).verify(self.path)
            except CorruptShard as damage:
                logger.warning("%s It is made again now.", damage)
                (self.path / METADATA).unlink(missing_ok=True)
                file.unlink()
        if self.complete:
            try:
                require_sealed(self.path, metadata := read_metadata(self.path / METADATA))
                read_statistics(self.path / STATISTICS, metadata)
            except CorruptShard as damage:
                logger.warning("%s It is written again now.", damage)
                (self.path / METADATA).unlink()

    def first_command(self, command: str) -> str:
        """How the extraction was started first, for the card: what resumes it is the same one. Until then, so."""
        path = self.path / PROGRESS / COMMAND
        if not path.exists():
            write_json(path, {"command": command})
        try:
            return str(json.loads(path.read_text(encoding="utf-8"))["command"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return command

    def notes(self) -> list[ChunkNote]:
        """Of all finished chunks, in their order."""
        return sorted((ChunkNote.read(file) for file in ChunkNote.files(self.path)), key=lambda note: note.index)

    def forget(self, notes: list[ChunkNote]) -> None:
        """Have these chunks made again."""
        for note in notes:
            note.file(self.path).unlink()


def _plan_in(path: Path) -> dict[str, Any]:
    """What was written down when the extraction began."""
    fix = "Start afresh with --overwrite."
    found: dict[str, Any] = read_json(path, named(plain), "resume", str(path.parents[1]), fix)
    return found
