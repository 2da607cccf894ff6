"""The bill of an extraction, printed before the work: rows, bytes, tokens, time."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rich.table import Table

from ..errors import BadInput


@dataclass(frozen=True)
class Bill:
    """What an extraction will cost; where a stream's length is unknown, `documents` is None and the rest per 1000."""

    FEWER: ClassVar[str] = "positions"  # what else of a request makes it smaller

    documents: int | None
    rows: int
    bytes: int
    tokens: int
    tokens_per_second: float = 1.0
    free_bytes: int = 0
    folder: str = ""
    stored_bytes: int = 0  # of rows that are there already, kept or to be replaced

    @property
    def seconds(self) -> float:
        return self.tokens / self.tokens_per_second

    def require_room(self) -> None:
        needed = self.bytes - self.stored_bytes
        if self.documents is not None and needed > self.free_bytes:
            raise BadInput(
                "output_dir",
                self.folder,
                f"Use another disk, fewer documents (--max_documents), {self.FEWER} or sites.",
                why=f"about {human_bytes(needed)} are needed and {human_bytes(self.free_bytes)} are free",
            )

    def __rich__(self) -> Table:
        table = Table(title="The bill" + ("" if self.documents is not None else ", for each 1000 documents"), box=None)
        table.add_column(style="dim")
        table.add_column(justify="right")
        for name, value in self.entries():
            table.add_row(name, value)
        return table

    def entries(self) -> list[tuple[str, str]]:
        """The lines of the bill."""
        lines = [
            ("documents", f"{self.documents:,}" if self.documents is not None else "unknown (stream)"),
            ("rows", f"about {self.rows:,}"),
            ("tokens", f"about {self.tokens:,}"),
            ("on disk", f"about {human_bytes(self.bytes)} of {human_bytes(self.free_bytes)} free"),
        ]
        if self.stored_bytes:
            lines.append(("stored already", human_bytes(self.stored_bytes)))
        return [
            *lines,
            ("speed", f"{self.tokens_per_second:,.0f} tokens/s"),
            ("time", f"about {human_time(self.seconds)}"),
        ]


def human_bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def human_time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def free_bytes(folder: Path) -> int:
    """Room on the disk that a folder lies on, or will lie on."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free
