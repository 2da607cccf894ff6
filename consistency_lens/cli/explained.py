"""The file that `explain` writes: rows of many texts.

Beside it lies what is finished, a line for each text, until all are there; after a kill it goes on behind the last
whole line.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..errors import BadInput
from ..schema import many, record, require, whole

KINDS = (".parquet", ".jsonl")
TOGETHER = 4096  # rows that become a part of the table at once
# A column of a table has one type: what is a list in a row becomes a record with names.
_NAMES = {
    "before": ("token", "probability"),
    "after": ("token", "probability"),
    "features": ("layer", "feature", "value"),
}
_LINE = record({"doc_id": whole(), "rows": many(record({"position": whole()}))})


class ExplainedFile:
    """Args:
    path: ends in one of `KINDS`.
    made_of: what settles the rows: lens, texts, options. A file that was begun of something else is refused.
    overwrite: a finished file goes.
    """

    def __init__(self, path: Path, made_of: Mapping[str, Any], overwrite: bool = False) -> None:
        self.path, self.made_of = path, json.loads(json.dumps(made_of))
        self.part = path.with_name(f".{path.name}.part")
        if path.suffix not in KINDS:
            raise BadInput("output", str(path), f"Give it the ending {' or '.join(KINDS)}.")
        if not path.parent.is_dir():
            raise BadInput("output", str(path), "Name a folder that is there.", why=f"{path.parent} is not")
        if path.exists() and not overwrite:
            raise BadInput("output", str(path), "Use --overwrite or another name.", why="it is there already")

    def begin(self, exits: ExitStack) -> int:
        """Keep others out until the end, and return how many texts are finished."""
        lock = FileLock(self.part.with_suffix(".lock"), timeout=0)
        try:
            lock.acquire()
        except Timeout:
            fix = "Wait for it, or use another name."
            raise BadInput("output", str(self.path), fix, why="another explain is writing there") from None
        exits.callback(lock.release)
        lines = self._whole_lines()
        if not lines:
            self.part.write_text(json.dumps(self.made_of) + "\n", encoding="utf-8")
        elif self._read(lines[0]) != self.made_of:
            why = "one of another lens, of other texts or with other options is unfinished there"
            raise BadInput("output", str(self.path), f"Use another name, or remove {self.part}.", why)
        return max(0, len(lines) - 1)

    def add(self, doc_id: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """The rows of the next text, in one line that is written at once."""
        with self.part.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"doc_id": doc_id, "rows": rows}, ensure_ascii=False) + "\n")

    def finish(self) -> int:
        """Write the file, which appears whole; return the number of its rows."""
        parts = (self._rows(line) for line in self._whole_lines()[1:])
        rows, count = chain.from_iterable(parts), 0
        fresh = self.part.with_suffix(".new")
        if self.path.suffix == ".parquet":
            count = _write_table(fresh, rows)
        else:
            with fresh.open("w", encoding="utf-8") as file:
                for row in rows:
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
                    count += 1
        fresh.replace(self.path)
        self.part.unlink()
        self.part.with_suffix(".lock").unlink(missing_ok=True)
        return count

    def _whole_lines(self) -> list[bytes]:
        """What a kill has left; half a line at the end goes."""
        if not self.part.is_file():
            return []
        content = self.part.read_bytes()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            self.part.write_bytes(content[:end])
        return content[:end].splitlines()

    def _rows(self, line: bytes) -> list[dict[str, Any]]:
        found = self._read(line)
        require(found, _LINE, "output", str(self.part), "Remove it: explain then begins anew.")
        return [{"doc_id": found["doc_id"], **row} for row in found["rows"]]

    def _read(self, line: bytes) -> Any:
        try:
            return json.loads(line)
        except ValueError as error:
            fix = "Remove it: explain then begins anew."
            raise BadInput("output", str(self.part), fix, why="it is damaged") from error


def _write_table(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    named, tables = map(_named, rows), []
    while part := list(islice(named, TOGETHER)):
        tables.append(pa.Table.from_pylist(part))
    table = pa.concat_tables(tables, promote_options="default") if tables else pa.table({})
    pq.write_table(table, path)
    return int(table.num_rows)


def _named(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: [dict(zip(_NAMES[name], item, strict=True)) for item in value] if name in _NAMES else value
        for name, value in row.items()
    }
