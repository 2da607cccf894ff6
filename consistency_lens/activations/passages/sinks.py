"""Where rows go while they are made: into memory, or into the shards of a folder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
from datasets import Dataset, Features

from ..documents import SPLITS
from ..manifest import sealed
from ..storage import METADATA, Shard, write_json, write_layout, write_shard

ROWS_PER_SHARD = 1 << 16


class Sink(Protocol):
    """Takes rows in their order."""

    def add(self, split: str, table: pa.Table) -> None: ...


class Memory:
    """Keeps all rows as Arrow tables."""

    def __init__(self) -> None:
        self._tables: dict[str, list[pa.Table]] = {split: [] for split in SPLITS}

    def add(self, split: str, table: pa.Table) -> None:
        self._tables[split].append(table)

    @property
    def splits(self) -> dict[str, Dataset]:
        """The splits that have rows."""
        return {split: Dataset(pa.concat_tables(tables)) for split, tables in self._tables.items() if tables}


class Shards:
    """Writes rows into a folder; memory holds no more than one shard of each split.

    Args:
        folder: that was claimed.
        rows: of a full shard.
    """

    def __init__(self, folder: Path, rows: int = ROWS_PER_SHARD) -> None:
        self.folder, self.rows = folder, rows
        self._waiting: dict[str, list[pa.Table]] = {split: [] for split in SPLITS}
        self._written: list[Shard] = []

    def add(self, split: str, table: pa.Table) -> None:
        self._waiting[split].append(table)
        if sum(map(len, self._waiting[split])) >= self.rows:
            self._write(split)

    def _write(self, split: str) -> None:
        index = sum(shard.split == split for shard in self._written)
        table, self._waiting[split] = pa.concat_tables(self._waiting[split]), []
        self._written.append(write_shard(self.folder, split, index, table))

    def finish(self, features: Features, metadata: dict[str, Any]) -> None:
        """Write what is left, and last the metadata, which say that all is there."""
        for split, tables in self._waiting.items():
            if tables:
                self._write(split)
        write_layout(self.folder, features, self._written)
        whole = metadata | {"shards": [asdict(shard) for shard in self._written]}
        write_json(self.folder / METADATA, sealed(self.folder, whole))
