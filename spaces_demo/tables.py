"""A scan as a table: for the page, and as files to take home."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

COLUMNS = ("position", "token", "kl", "explanation", "cosine", "before", "after")
HEADERS = ["#", "token", "KL", "what the lens says", "cosine", "M says next", "with the swap"]
KINDS = ["number", "str", "number", "str", "number", "str", "str"]
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def cells(rows: Sequence[dict[str, Any]]) -> list[list[Any]]:
    """One line per token, numbers as numbers, so that they sort as numbers."""
    return [
        [row["position"], row["token"], round(row["kl"], 4), row["explanation"], round(row["cosine"], 4)]
        + [said(row[side]) for side in ("before", "after")]
        for row in rows
    ]


def said(tokens: Sequence[tuple[str, float]], count: int = 2) -> str:
    """The likeliest tokens in one line."""
    return ", ".join(f"{token.strip() or repr(token)} {chance:.2f}" for token, chance in tokens[:count])


def as_parquet(rows: Sequence[dict[str, Any]], facts: dict[str, str]) -> bytes:
    """The rows as `explain` gives them; `facts` (which text, lens and site) are in the file's metadata."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    sides = ("before", "after")
    full = [{**row, **{s: [{"token": t, "probability": p} for t, p in row[s]] for s in sides}} for row in rows]
    table = pa.Table.from_pylist(full).select(list(COLUMNS)).replace_schema_metadata(facts)
    file = io.BytesIO()
    parquet.write_table(table, file)
    return file.getvalue()


def as_csv(rows: Sequence[dict[str, Any]]) -> bytes:
    """The same for spreadsheets."""
    text = io.StringIO()
    lines = csv.writer(text)
    lines.writerow(COLUMNS)
    lines.writerows([_tame(cell) for cell in line] for line in cells(rows))
    return text.getvalue().encode("utf-8-sig")


def _tame(cell: Any) -> Any:
    """A cell that a spreadsheet takes for text: one that began with '=' would be run."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell
