"""Stored activations: load a folder or a Hub dataset, check it, and collate rows into batches.

Shapes: B rows, S tokens of the longest context, k longest continuation, d hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict, IterableDataset, load_dataset, load_from_disk
from huggingface_hub import get_token, hf_hub_download

from ...errors import BadInput
from ...frozen import FrozenLM, Site
from ...hub import redacted
from ...schema import require_place
from ..manifest import read_metadata, read_statistics
from ..recorded import Recorded, opened
from ..storage import METADATA, STATISTICS
from .given import described, survey
from .stored import require_extraction


@dataclass(frozen=True)
class Activations(Recorded):
    """Rows with where they come from.

    Args:
        splits: `train`, and `validation` and `test` where documents were held out.
        metadata: what `extraction.json` says.
        statistics: `<site>.mean` and `<site>.variance` over the training split, `[d]` float64.
    """

    NOUN = "activations"
    splits: DatasetDict
    metadata: Mapping[str, Any]
    statistics: Mapping[str, np.ndarray]

    @classmethod
    def load(cls, folder_or_repo: str | Path, verify: bool = True, revision: str | None = None) -> Activations:
        """Open an extraction.

        Args:
            folder_or_repo: local folder, memory-mapped where it lies, or the id of a dataset on the Hub.
            verify: compare every shard of a folder with its checksum first; a damaged one is named. The small files
                beside them always are; shards from the Hub are checked by its client.
            revision: branch, tag or commit on the Hub.
        """
        require_place(str(folder_or_repo), "activations")
        folder = Path(folder_or_repo)
        if not folder.is_dir():
            repo = str(folder_or_repo)
            try:
                paths = [
                    hf_hub_download(repo, name, repo_type="dataset", revision=revision)
                    for name in (METADATA, STATISTICS)
                ]
            except (OSError, ValueError) as error:
                raise BadInput(
                    "activations",
                    repo,
                    "Give the folder of an extraction, or the id of one on the Hub.",
                    why=redacted(f"there is no such folder, and the Hub says: {error}", get_token()),
                ) from None
            metadata = require_extraction(read_metadata(Path(paths[0])), repo)
            return cls(load_dataset(repo, revision=revision), metadata, read_statistics(Path(paths[1]), metadata))
        metadata = opened(
            folder_or_repo, "rows", "activations", verify, lambda found: require_extraction(found, str(folder_or_repo))
        )
        statistics = read_statistics(folder / STATISTICS, metadata)
        return cls(load_from_disk(str(folder)), metadata, statistics)

    @classmethod
    def from_dataset(
        cls,
        dataset: Dataset | IterableDataset | DatasetDict,
        frozen: FrozenLM,
        sites: str | Site | Sequence[str | Site] | None = None,
        eval_dataset: Dataset | None = None,
    ) -> Activations:
        """Take rows that somebody made. They are checked in one pass, which also takes mean and variance in float64;
        of a stream, whose first rows come again with each pass, the first 4096 rows stand for all.

        Args:
            dataset: rows with `input_ids`, `position`, `doc_id`, a column of floats named after each site, and
                `continuation_ids` where a horizon shall be judged; or splits of them, `train` and `validation`.
            frozen: the model whose activations these are. The rows cannot prove it: who gives them vouches for it.
            sites: where they were read. Default: what the columns are named after.
            eval_dataset: held-out rows, of other documents.
        """
        return cls(*described(dataset, frozen, sites, eval_dataset))

    @classmethod
    def of(
        cls, given: Any, frozen: FrozenLM, sites: str | Sequence[str], eval_dataset: Dataset | None = None
    ) -> Activations:
        """Whatever a trainer may be given, as activations: a folder's path is opened, a plain data set is described;
        `eval_dataset` takes the place of the validation split."""
        rows = cls.load(given) if isinstance(given, (str, Path)) else given
        if not isinstance(rows, Activations):
            return cls.from_dataset(rows, frozen, sites, eval_dataset)
        if eval_dataset is None:
            return rows
        found = survey(eval_dataset, frozen, [sites] if isinstance(sites, str) else list(sites), "eval_dataset")
        counts = {**rows.metadata.get("splits", {}), "validation": found.counts}
        splits = DatasetDict({**rows.splits, "validation": eval_dataset})
        return replace(rows, splits=splits, metadata={**rows.metadata, "splits": counts})

    @property
    def dtype(self) -> torch.dtype:
        """Of the stored vectors."""
        return {"float16": torch.float16, "float32": torch.float32}[self.metadata["dtype"]]

    def streaming(self, rows: IterableDataset) -> Activations:
        """The same held-out rows and statistics, with a stream to train on. It shall have no end: what is left of the
        last batch may be a single row, which has no partner."""
        return replace(self, splits=DatasetDict({**self.splits, "train": rows}))

    def collator(
        self, pad_token_id: int = 0, pair: bool = True, sites: Sequence[str] | None = None
    ) -> ActivationCollator:
        """Makes batches of these rows in the stored dtype, with all their sites or those that are named."""
        return ActivationCollator(self.sites if sites is None else sites, pad_token_id, pair, self.dtype)

    def mean(self, site: str) -> torch.Tensor:
        """Mean training activation of a site, `[d]` float32."""
        self.provenance.at(site)
        return torch.from_numpy(self.statistics[f"{site}.mean"]).float()

    def norm(self, site: str) -> float:
        """Root mean square norm of the training activations of a site."""
        (name,) = self.provenance.at(site).sites
        mean, variance = (self.statistics[f"{name}.{kind}"] for kind in ("mean", "variance"))
        return float((mean**2 + variance).sum() ** 0.5)


class ActivationCollator:
    """Rows to a batch, each with a partner from another document.

    The batch: `input_ids`, `attention_mask` `[B, S]` padded on the left, so that P is the last column of every row;
    `continuation_ids`, `continuation_mask` `[B, k]` padded on the right, where the rows have them; `position`,
    `doc_id` `[B]`; `activations`, site -> `[B, d]`; `pair` `[B]`: for row i, the row whose activation, ids and
    position are its A'. Other columns come as lists.

    Pairing uses no random numbers, so a resumed run pairs as the uninterrupted one.

    Args:
        sites: the columns that hold activations.
        pad_token_id: fills the padding; it is masked.
        pair: give every row a partner. Without it a batch may hold a single document.
        dtype: of the activations. The formats of `datasets` hand out float16 as float32; the stored dtype, which
            `Activations.collator` puts here, takes it back without loss. Default: as the rows have it.
    """

    def __init__(
        self, sites: Sequence[str], pad_token_id: int = 0, pair: bool = True, dtype: torch.dtype | None = None
    ) -> None:
        self.sites, self.pad_token_id, self.pair, self.dtype = list(sites), pad_token_id, pair, dtype

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        if not rows:
            raise BadInput("rows", [], "Give at least one row.")
        missing = [site for site in self.sites if site not in rows[0]]
        if missing:
            raise BadInput("sites", missing[0], f"The rows hold {', '.join(rows[0])}.")
        input_ids, attention_mask = self._padded([row["input_ids"] for row in rows], left=True)
        doc_id = torch.tensor([int(row["doc_id"]) for row in rows])
        batch: dict[str, Any] = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position": torch.tensor([int(row["position"]) for row in rows]),
            "doc_id": doc_id,
            "activations": {site: self._stacked([row[site] for row in rows]) for site in self.sites},
        }
        if "continuation_ids" in rows[0]:
            following = self._padded([row["continuation_ids"] for row in rows], left=False)
            batch["continuation_ids"], batch["continuation_mask"] = following
        if self.pair:
            batch["pair"] = pair_by_document(doc_id)
        known = {*batch, *self.sites, "input_ids"}
        return batch | {name: [row[name] for row in rows] for name in rows[0] if name not in known}

    def _stacked(self, vectors: Sequence[Any]) -> torch.Tensor:
        # A list of plain numbers becomes float32, which holds whatever Arrow held.
        stacked = torch.stack([torch.as_tensor(vector) for vector in vectors])
        return stacked if self.dtype is None else stacked.to(self.dtype)

    def _padded(self, lists: Sequence[Any], left: bool) -> tuple[torch.Tensor, torch.Tensor]:
        width = max(len(ids) for ids in lists)
        padded = torch.full((len(lists), width), self.pad_token_id)
        mask = torch.zeros(len(lists), width, dtype=torch.long)
        for i, ids in enumerate(lists):
            where = slice(width - len(ids), None) if left else slice(len(ids))
            padded[i, where] = torch.as_tensor(ids)
            mask[i, where] = 1
        return padded, mask


def pair_by_document(doc_id: torch.Tensor) -> torch.Tensor:
    """For each row another row, of another document: the rows sorted by document, turned by the largest document.

    The turn is a permutation without a fixed document as long as no document holds more than half of the rows; where
    one does, its rows share the partners there are.
    """
    rows = len(doc_id)
    order = torch.argsort(doc_id, stable=True)
    largest = int(torch.unique(doc_id, return_counts=True)[1].max())
    if largest == rows:
        raise BadInput(
            "batch_size",
            rows,
            "Use a batch of at least 2 rows and a corpus of several documents, shuffled.",
            why="all rows of the batch are of one document, and A' has to come from another",
        )
    pair = torch.empty_like(order)
    pair[order] = order.roll(-largest)
    for row in torch.nonzero(doc_id[pair] == doc_id).flatten():
        others = torch.nonzero(doc_id != doc_id[row]).flatten()
        pair[row] = others[row % len(others)]
    return pair
