"""Plain data sets of `datasets`, made by somebody else: their splits and columns, checked by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, IterableDataset

from ..errors import BadInput
from ..frozen import FrozenLM, Site
from ..frozen.sites import LAYERED

MOST_OF_A_STREAM = 1 << 16  # rows that are taken of a stream where all of them have to be known
_KINDS = "a DatasetDict, a Dataset or an IterableDataset of `datasets`"


def field_of(split: str) -> str:
    """The argument of a trainer that a split comes from."""
    return "train_dataset" if split == "train" else "eval_dataset"


def require_rows_of(rows: Any, field: str, kinds: str) -> None:
    """Raise unless these are rows of the kind that one may look at; `kinds` are what else the field takes."""
    if field == "train_dataset" and not isinstance(rows, (Dataset, IterableDataset)):
        raise BadInput(field, type(rows).__name__, f"Give {kinds}, {_KINDS}.", why="it is of another kind")
    if field != "train_dataset" and not isinstance(rows, Dataset):
        fix = "Give a Dataset of `datasets`: each evaluation looks at the same of its rows."
        raise BadInput(field, type(rows).__name__, fix, why="it is of another kind")


def splits_of(dataset: Any, eval_dataset: Any, kinds: str) -> DatasetDict:
    """`train`, and what else was given; `eval_dataset` takes the place of `validation`."""
    if isinstance(dataset, DatasetDict):
        if "train" not in dataset:
            fix = "Name the split to train on train, and the one that is held out validation."
            raise BadInput("train_dataset", sorted(dataset), fix, why="there is no split named train")
        splits = dict(dataset)
    else:
        require_rows_of(dataset, "train_dataset", kinds)
        splits = {"train": dataset}
    if eval_dataset is not None:
        splits["validation"] = eval_dataset
    for split, rows in splits.items():
        require_rows_of(rows, field_of(split), kinds)
    return DatasetDict(splits)


def listed(stream: IterableDataset, field: str) -> Dataset:
    """All rows of a stream; raise where it does not end soon."""
    rows = list(islice(iter(stream), MOST_OF_A_STREAM + 1))
    require_end(len(rows), field)
    return Dataset.from_list(rows, features=stream.features)


def require_end(rows: int, field: str) -> None:
    """Raise where so many rows of a stream were read, and it goes on."""
    if rows > MOST_OF_A_STREAM:
        fix = f"Take a part of it: dataset.take({MOST_OF_A_STREAM}); or store it, with run_lens.py extract."
        why = f"it has more than {MOST_OF_A_STREAM} rows, and all of them are read before the first step"
        raise BadInput(field, "IterableDataset", fix, why)


def columns_of(rows: Any) -> list[str]:
    """A stream that nobody has described shows them in its first row."""
    return list(rows.column_names or next(iter(rows.take(1)), {}))


def require_columns(rows: Any, wanted: Mapping[str, str], field: str, otherwise: str) -> None:
    """Raise where one of the columns, name -> what it holds, is missing."""
    there = columns_of(rows)
    for name, meaning in wanted.items():
        if name not in there:
            fix = f"Add a column {name}: {meaning}. {otherwise}"
            raise BadInput(field, name, fix, why=f"the column is missing; there are {', '.join(there) or 'none'}")


def site_columns(rows: Any) -> list[str]:
    """The columns that are named after sites."""
    return [name for name in columns_of(rows) if name == "embed" or name.split(".")[0] in LAYERED]


def named_sites(rows: Any, frozen: FrozenLM, sites: str | Site | Sequence[str | Site] | None) -> list[str]:
    """The sites that are asked for, or else those that columns are named after, in the order of the pass."""
    if sites is None and not (sites := site_columns(rows)):
        fix = "Name the site that the rows were read at, and its column after it: resid_post.8, for instance."
        raise BadInput("sites", None, fix, why=f"of the columns {columns_of(rows)} none is named after a site")
    several = [sites] if isinstance(sites, (str, Site)) else list(sites or [])
    return list(frozen.provenance(*(frozen.site(site) for site in several)).sites)


def integers(values: Any, field: str, name: str) -> np.ndarray:
    found = np.asarray(values)
    if found.dtype.kind not in "iu" or found.ndim != 1 or (found < 0).any():
        raise BadInput(field, name, f"Give integers from 0 in the column {name}.", why="it holds something else")
    return found


def highest_id(values: Any, frozen: FrozenLM, field: str, name: str, why: str = "") -> int:
    """The highest token id of lists of them; `why` none of these may be empty, if so."""
    lists = list(values)
    if not all(isinstance(each, (list, np.ndarray)) for each in lists):
        raise BadInput(field, name, f"Give lists of token ids in the column {name}.", why="it holds no lists")
    if why and not all(map(len, lists)):
        raise BadInput(field, name, "Give each row at least one token.", why=why)
    ids = np.concatenate([np.asarray(each) for each in lists if len(each)])
    if ids.dtype.kind not in "iu" or ids.ndim != 1 or (ids < 0).any():
        raise BadInput(field, name, f"Give lists of token ids in the column {name}.", why="it holds something else")
    frozen.require_vocabulary(int(ids.max()), f"{field}.{name}")
    return int(ids.max())


def require_vectors(found: np.ndarray, frozen: FrozenLM, field: str, site: str) -> np.ndarray:
    """Activations `[n, d]` of a column; raise where they cannot be this model's."""
    if found.dtype.kind != "f":
        fix = f"Give the column {site} floats: float16 or float32."
        raise BadInput(field, site, fix, why=f"its numbers are of the type {found.dtype}")
    if found.shape[1] != frozen.hidden_size:
        fix = f"Give activations of {frozen.model_id}, which have {frozen.hidden_size} numbers."
        raise BadInput(field, site, fix, why=f"its vectors have {found.shape[1]} numbers")
    if not np.isfinite(found).all():
        raise BadInput(field, site, "Leave out rows that are not finite.", why="it holds a number that is not finite")
    return found
