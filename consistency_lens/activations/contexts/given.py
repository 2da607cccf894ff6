"""Rows that somebody made: a plain data set is checked, and described as an extraction describes itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from datasets import DatasetDict, Features, IterableDataset, Value

from ...errors import BadInput
from ...frozen import FrozenLM, Site
from ..plain import (
    columns_of,
    field_of,
    highest_id,
    integers,
    named_sites,
    require_columns,
    require_rows_of,
    require_vectors,
    splits_of,
)
from ..statistics import SiteStatistics
from ..statistics import described as means_of
from ..storage import TEXT_COLUMNS

STREAM_SAMPLE = 4096  # rows of a stream that are checked, and that its statistics are taken from
_ROWS = 512  # that are looked at together
KINDS = "Activations, the path of a folder of them"


@dataclass
class Survey:
    """What a pass over rows has found."""

    rows: int = 0
    documents: set[int] = field(default_factory=set)
    highest_id: int = 0
    continuation: int = 0  # tokens of the longest one
    statistics: dict[str, SiteStatistics] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        return {"documents": len(self.documents), "rows": self.rows}


def described(
    dataset: Any, frozen: FrozenLM, sites: str | Site | Sequence[str | Site] | None = None, eval_dataset: Any = None
) -> tuple[DatasetDict, dict[str, Any], dict[str, np.ndarray]]:
    """Splits, metadata and statistics of a plain data set, as an extraction would have written them."""
    splits = splits_of(dataset, eval_dataset, KINDS)
    names = named_sites(splits["train"], frozen, sites)
    found = {split: survey(rows, frozen, names, field_of(split)) for split, rows in splits.items()}
    train = found["train"]
    streams = isinstance(splits["train"], IterableDataset)
    metadata = {
        "provenance": frozen.provenance(*names).to_dict(),
        "rules": {"continuation_length": max(each.continuation for each in found.values())},
        "dtype": _dtype_of(splits["train"], names),
        # Of a stream nobody knows how many rows there are.
        "splits": {name: each.counts for name, each in found.items() if not (streams and name == "train")},
        "highest_token_id": max(each.highest_id for each in found.values()),
    }
    return splits, metadata, means_of(train.statistics)


def survey(rows: Any, frozen: FrozenLM, sites: Sequence[str], field: str) -> Survey:
    """Look at all rows, or at the first `STREAM_SAMPLE` of a stream; raise where training could not use them."""
    require_rows_of(rows, field, KINDS)
    columns = _require_columns(rows, sites, field)
    some = rows.take(STREAM_SAMPLE) if isinstance(rows, IterableDataset) else rows
    found, keys = Survey(), set()
    found.statistics = {site: SiteStatistics.empty(frozen.hidden_size) for site in sites}
    for batch in some.select_columns(columns).with_format("numpy").iter(batch_size=_ROWS):
        found.highest_id = max(
            found.highest_id, highest_id(batch["input_ids"], frozen, field, "input_ids", "a context is empty")
        )
        if "continuation_ids" in columns:
            longest = max(len(ids) for ids in batch["continuation_ids"])
            found.continuation = max(found.continuation, longest)
            if longest:
                further = highest_id(batch["continuation_ids"], frozen, field, "continuation_ids")
                found.highest_id = max(found.highest_id, further)
        documents, positions = (integers(batch[name], field, name) for name in ("doc_id", "position"))
        for site in sites:
            vectors = _vectors(batch[site], frozen, field, site)
            found.statistics[site] = found.statistics[site].merge(SiteStatistics.of(vectors))
        found.rows += len(documents)
        found.documents |= set(documents.tolist())
        keys |= set(zip(documents.tolist(), positions.tolist(), strict=True))
    if not found.rows:
        raise BadInput(field, 0, "Give at least one row.", why="there are no rows")
    if len(keys) < found.rows and not isinstance(rows, IterableDataset):
        fix = "Number the documents in doc_id, and give each row of a document a position of its own."
        raise BadInput(field, "doc_id", fix, why="several rows have the same doc_id and position")
    return found


def _require_columns(rows: Any, sites: Sequence[str], field: str) -> list[str]:
    meaning = {
        "doc_id": "the number of the document",
        "input_ids": "the tokens of the context, up to and with the one that was read",
        "position": "the index of the last of input_ids, counted from 0",
        **{site: f"the activation at {site}, a list of floats" for site in sites},
    }
    require_columns(rows, meaning, field, "Or make rows with: run_lens.py extract.")
    return [name for name in (*TEXT_COLUMNS, *sites) if name in columns_of(rows)]


def _vectors(values: Any, frozen: FrozenLM, field: str, site: str) -> np.ndarray:
    found = np.asarray(values)
    if found.ndim != 2:
        fix = f"Give each row one list of {frozen.hidden_size} floats in the column {site}."
        raise BadInput(field, site, fix, why="its rows are no vectors of one length")
    return require_vectors(found, frozen, field, site)


def _dtype_of(rows: Any, sites: Sequence[str]) -> str:
    """float16 where all vectors are stored so; else float32."""
    features: Features | Mapping[str, Any] = rows.features or {}
    kinds = [features[site].feature for site in sites if site in features]
    halves = [isinstance(kind, Value) and kind.dtype == "float16" for kind in kinds]
    return "float16" if halves and all(chain(halves, [len(halves) == len(sites)])) else "float32"
