"""A scan as a table: for the page, and as files to take home."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from consistency_lens.card import columns

COLUMNS = ("position", "token", "kl", "explanation", "cosine", "before", "after")
KINDS = ["number", "str", "number", "str", "number", "str", "str"]
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def shown_columns(rows: Sequence[dict[str, Any]]) -> list[int]:
    """The columns that rows have: some families give no cosine."""
    return [i for i, name in enumerate(COLUMNS) if not rows or name in rows[0]]


def headers(rows: Sequence[dict[str, Any]]) -> list[str]:
    return [columns.heading(COLUMNS[i]) for i in shown_columns(rows)]


def cells(rows: Sequence[dict[str, Any]]) -> list[list[Any]]:
    """One line per token, numbers as numbers, so that they sort as numbers."""
    return [[_cell(COLUMNS[i], row) for i in shown_columns(rows)] for row in rows]


def _cell(name: str, row: dict[str, Any]) -> Any:
    value = row[name]
    return (
        columns.shown(value) if name in columns.PREDICTIONS else round(value, 4) if isinstance(value, float) else value
    )


def as_parquet(rows: Sequence[dict[str, Any]], facts: dict[str, str]) -> bytes:
    """The rows as `explain` gives them; `facts` (which text, lens and site) are in the file's metadata."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    names = [COLUMNS[i] for i in shown_columns(rows)]
    table = pa.Table.from_pylist([columns.stored(row) for row in rows]).select(names).replace_schema_metadata(facts)
    file = io.BytesIO()
    parquet.write_table(table, file)
    return file.getvalue()


def as_csv(rows: Sequence[dict[str, Any]]) -> bytes:
    """The same for spreadsheets."""
    text = io.StringIO()
    lines = csv.writer(text)
    lines.writerow(COLUMNS[i] for i in shown_columns(rows))
    lines.writerows([_tame(cell) for cell in line] for line in cells(rows))
    return text.getvalue().encode("utf-8-sig")


def _tame(cell: Any) -> Any:
    """A cell that a spreadsheet takes for text: one that began with '=' would be run."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell
