"""What `extraction.json` may say of rows, checked before any of it is used."""

from __future__ import annotations

from typing import Any

from ...frozen.loading.provenance import PROVENANCE
from ...schema import many, named, no_other, number, one_of, record, require, text, whole
from ..documents import SPLITS
from ..storage import METADATA, SHARD

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
        "position_step": whole(1, 1 << 28),
        "validation_fraction": number(0, 1),
        "test_fraction": number(0, 1),
        "seed": whole(),
    },
)
EXTRACTION = record(
    {
        "provenance": PROVENANCE,
        "corpus": record({"corpus": text()}),
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


def require_extraction(metadata: dict[str, Any], place: str) -> dict[str, Any]:
    """The metadata of rows; raise where a field is of another kind. `place` is what the user called their folder."""
    require(metadata, EXTRACTION, "activations", place, AGAIN, METADATA)
    return metadata
