"""Rows that somebody made: a plain data set is checked, and described as an extraction describes itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, Features, IterableDataset, Value

from ...errors import BadInput
from ...frozen import FrozenLM, Site
from ...frozen.sites import LAYERED
from ..statistics import SiteStatistics
from ..storage import TEXT_COLUMNS

STREAM_SAMPLE = 4096  # rows of a stream that are checked, and that its statistics are taken from
_ROWS = 512  # that are looked at together
_NEEDED = tuple(name for name in TEXT_COLUMNS if name != "continuation_ids")
_KINDS = "Activations, the path of a folder of them, a DatasetDict, a Dataset or an IterableDataset of `datasets`"


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
    splits = _splits_of(dataset, eval_dataset)
    names = _sites_of(splits["train"], frozen, sites)
    found = {split: survey(rows, frozen, names, _field_of(split)) for split, rows in splits.items()}
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
    statistics = {f"{site}.mean": train.statistics[site].mean for site in names}
    statistics |= {f"{site}.variance": train.statistics[site].variance for site in names}
    return splits, metadata, statistics


def survey(rows: Any, frozen: FrozenLM, sites: Sequence[str], field: str) -> Survey:
    """Look at all rows, or at the first `STREAM_SAMPLE` of a stream; raise where training could not use them."""
    require_rows_of(rows, field)
    columns = _require_columns(rows, sites, field)
    some = rows.take(STREAM_SAMPLE) if isinstance(rows, IterableDataset) else rows
    found, keys = Survey(), set()
    found.statistics = {site: SiteStatistics.empty(frozen.hidden_size) for site in sites}
    for batch in some.select_columns(columns).with_format("numpy").iter(batch_size=_ROWS):
        found.highest_id = max(found.highest_id, _highest(batch["input_ids"], frozen, field, "input_ids"))
        if "continuation_ids" in columns:
            longest = max(len(ids) for ids in batch["continuation_ids"])
            found.continuation = max(found.continuation, longest)
            if longest:
                further = _highest(batch["continuation_ids"], frozen, field, "continuation_ids")
                found.highest_id = max(found.highest_id, further)
        documents, positions = (_integers(batch[name], field, name) for name in ("doc_id", "position"))
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


def require_rows_of(rows: Any, field: str) -> None:
    """Raise unless these are rows of the kind that one may look at."""
    if field == "train_dataset" and not isinstance(rows, (Dataset, IterableDataset)):
        raise BadInput(field, type(rows).__name__, f"Give {_KINDS}.", why="it is of another kind")
    if field != "train_dataset" and not isinstance(rows, Dataset):
        fix = "Give a Dataset of `datasets`: each evaluation looks at the same of its rows."
        raise BadInput(field, type(rows).__name__, fix, why="it is of another kind")


def _field_of(split: str) -> str:
    return "train_dataset" if split == "train" else "eval_dataset"


def _splits_of(dataset: Any, eval_dataset: Any) -> DatasetDict:
    if isinstance(dataset, DatasetDict):
        if "train" not in dataset:
            fix = "Name the split to train on train, and the one that is held out validation."
            raise BadInput("train_dataset", sorted(dataset), fix, why="there is no split named train")
        splits = dict(dataset)
    else:
        require_rows_of(dataset, "train_dataset")
        splits = {"train": dataset}
    if eval_dataset is not None:
        splits["validation"] = eval_dataset
    return DatasetDict(splits)


def _columns_of(rows: Any) -> list[str]:
    """A stream that nobody has described shows them in its first row."""
    return list(rows.column_names or next(iter(rows.take(1)), {}))


def _sites_of(rows: Any, frozen: FrozenLM, sites: str | Site | Sequence[str | Site] | None) -> list[str]:
    if sites is None:
        sites = [name for name in _columns_of(rows) if name == "embed" or name.split(".")[0] in LAYERED]
        if not sites:
            fix = "Name the site that the rows were read at, and its column after it: resid_post.8, for instance."
            raise BadInput("sites", None, fix, why=f"of the columns {_columns_of(rows)} none is named after a site")
    several = [sites] if isinstance(sites, (str, Site)) else list(sites)
    return [str(frozen.site(site)) for site in several]


def _require_columns(rows: Any, sites: Sequence[str], field: str) -> list[str]:
    there = _columns_of(rows)
    meaning = {
        "input_ids": "the tokens of the context, up to and with the one that was read",
        "position": "the index of the last of input_ids, counted from 0",
        "doc_id": "the number of the document",
        **{site: f"the activation at {site}, a list of floats" for site in sites},
    }
    for name in (*_NEEDED, *sites):
        if name not in there:
            fix = f"Add a column {name}: {meaning[name]}. Or make rows with: run_lens.py extract."
            raise BadInput(field, name, fix, why=f"the column is missing; there are {', '.join(there) or 'none'}")
    return [name for name in (*TEXT_COLUMNS, *sites) if name in there]


def _integers(values: Any, field: str, name: str) -> np.ndarray:
    found = np.asarray(values)
    if found.dtype.kind not in "iu" or found.ndim != 1 or (found < 0).any():
        raise BadInput(field, name, f"Give integers from 0 in the column {name}.", why="it holds something else")
    return found


def _highest(lists: Any, frozen: FrozenLM, field: str, name: str) -> int:
    if name == "input_ids" and not all(map(len, _lists(lists, field, name))):
        raise BadInput(field, name, "Give each row at least one token.", why="a context is empty")
    ids = np.concatenate([np.asarray(each) for each in _lists(lists, field, name) if len(each)])
    if ids.dtype.kind not in "iu" or ids.ndim != 1 or (ids < 0).any():
        raise BadInput(field, name, f"Give lists of token ids in the column {name}.", why="it holds something else")
    highest = int(ids.max())
    frozen.require_vocabulary(highest, f"{field}.{name}")
    return highest


def _lists(values: Any, field: str, name: str) -> Iterator[Any]:
    found = np.asarray(values)
    if found.ndim == 1 and found.dtype.kind != "O":
        raise BadInput(field, name, f"Give lists of token ids in the column {name}.", why="it holds no lists")
    return iter(values)


def _vectors(values: Any, frozen: FrozenLM, field: str, site: str) -> np.ndarray:
    found = np.asarray(values)
    if found.ndim != 2:
        fix = f"Give each row one list of {frozen.hidden_size} floats in the column {site}."
        raise BadInput(field, site, fix, why="its rows are no vectors of one length")
    if found.dtype.kind != "f":
        fix = f"Give the column {site} floats: float16 or float32."
        raise BadInput(field, site, fix, why=f"its numbers are of the type {found.dtype}")
    if found.shape[1] != frozen.hidden_size:
        fix = f"Give activations of {frozen.model_id}, which have {frozen.hidden_size} numbers."
        raise BadInput(field, site, fix, why=f"its vectors have {found.shape[1]} numbers")
    if not np.isfinite(found).all():
        raise BadInput(field, site, "Leave out rows that are not finite.", why="it holds a number that is not finite")
    return found


def _dtype_of(rows: Any, sites: Sequence[str]) -> str:
    """float16 where all vectors are stored so; else float32."""
    features: Features | Mapping[str, Any] = rows.features or {}
    kinds = [features[site].feature for site in sites if site in features]
    halves = [isinstance(kind, Value) and kind.dtype == "float16" for kind in kinds]
    return "float16" if halves and all(chain(halves, [len(halves) == len(sites)])) else "float32"
