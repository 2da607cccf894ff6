"""What an extraction's folder says of itself, checked before any of it is used: its metadata and its statistics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from ..errors import BadInput
from ..frozen.provenance import PROVENANCE
from ..schema import many, named, no_other, number, one_of, plain, read_json, record, whole
from .rows import SPLITS
from .storage import SHARD

AGAIN = "Extract again, or fetch the folder again if it was copied."
_COUNTS = record({"documents": whole(), "rows": whole()})
_RULES = record(
    {
        "min_position": whole(0, 1 << 28),
        "max_length": whole(2, 1 << 28),
        "continuation_length": whole(1, 1 << 28),
    },
    {
        "positions_per_document": whole(1, 1 << 28),
        "validation_fraction": number(0, 1),
        "test_fraction": number(0, 1),
        "seed": whole(),
    },
)
EXTRACTION = record(
    {
        "provenance": PROVENANCE,
        "corpus": named(plain),
        "rules": _RULES,
        "dtype": one_of("float16", "float32"),
        "splits": record({}, dict.fromkeys(SPLITS, _COUNTS), rest=no_other),
        "highest_token_id": whole(0, 1 << 24),
        "shards": many(SHARD),
    },
    {
        "format": whole(1, 1),
        "near_duplicates": named(whole()),
        "norms": named(named(number())),
        "tokens": whole(),
        "documents_too_short": whole(),
    },
)


def read_extraction(path: Path, place: str) -> dict[str, Any]:
    """What `extraction.json` says; `place` is what the user called its folder."""
    found: dict[str, Any] = read_json(path, EXTRACTION, "activations", place, AGAIN)
    return found


def read_statistics(path: Path, place: str, sites: Iterable[str]) -> dict[str, np.ndarray]:
    """Mean and variance of each site; raise where the file is damaged, or holds what no vectors can have."""
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise BadInput("activations", place, AGAIN, why=f"{path.name} cannot be read: {error}") from error
    for site in sites:
        for name in (f"{site}.mean", f"{site}.variance"):
            values = found.get(name)
            if values is None:
                raise BadInput("activations", place, AGAIN, why=f"{path.name} holds no {name}")
            width = len(found[f"{site}.mean"])
            sound = values.dtype == np.float64 and values.shape == (width,) and np.isfinite(values).all()
            if not sound or (name.endswith("variance") and (values < 0).any()):
                why = f"{path.name}: {name} is no list of finite numbers, one for each coordinate"
                raise BadInput("activations", place, AGAIN, why)
    return found


def require_rows_of(metadata: Mapping[str, Any], splits: Mapping[str, Sized], place: str) -> None:
    """Raise where there are other rows than the metadata counts."""
    counted = {name: counts["rows"] for name, counts in metadata["splits"].items() if counts["rows"]}
    there = {name: len(rows) for name, rows in splits.items() if len(rows)}
    if counted != there:
        raise BadInput(
            "activations", place, AGAIN, why=f"extraction.json counts {counted} rows, and there are {there}"
        )
