"""Stored blocks: open a folder, check it, and take shuffled tokens or whole documents from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from ...errors import BadInput
from ...frozen import FrozenLM, Provenance
from ..contexts.rows import SPLITS
from ..manifest import OTHER_KIND, read_metadata, read_statistics, require_sealed
from ..storage import METADATA, PROGRESS, STATISTICS, Shard
from .documents import Labels, Tokens, labels_of
from .encoding import STORED
from .files import read_activations, read_documents, read_scale
from .finish import KIND
from .tokens import BlockSource, ShuffledTokens


@dataclass(frozen=True)
class Blocks:
    """Blocks of tokens with where they come from.

    Args:
        folder: where they lie.
        metadata: what `extraction.json` says.
        statistics: `<site>.mean` and `<site>.variance` over all training tokens, `[d]` float64.
    """

    folder: Path
    metadata: Mapping[str, Any]
    statistics: Mapping[str, np.ndarray]

    @classmethod
    def load(cls, folder: str | Path, verify: bool = True) -> Blocks:
        """Open a folder of blocks; nothing is read into memory.

        Args:
            folder: of an extraction of blocks.
            verify: compare every block with its checksum first; a damaged one is named. The small files beside them
                always are, and the scales of int8.
        """
        path = Path(folder)
        if not (path / METADATA).exists():
            began = (path / PROGRESS).exists()
            fix = "Finish it with resume=True." if began else "Make one with BlockExtraction."
            why = "the extraction is not finished" if began else "no extraction lies there"
            raise BadInput("blocks", str(folder), fix, why=why)
        metadata = read_metadata(path / METADATA)
        if (kind := metadata.get("kind", "rows")) != KIND:
            raise BadInput("blocks", str(folder), OTHER_KIND, why=f"the folder holds {kind}, not blocks")
        require_sealed(path, metadata)
        blocks = cls(path, metadata, read_statistics(path / STATISTICS, metadata))
        shards = blocks.shards()
        for shard in tqdm(shards, desc="verifying", unit="block", disable=None, leave=False):
            if verify:
                shard.verify(path)
            if metadata["dtype"] == "int8":
                read_scale(path / shard.file, blocks.sites)
        return blocks

    @property
    def provenance(self) -> Provenance:
        return Provenance.from_dict(self.metadata["provenance"])

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites, in the order of the second axis of activations."""
        return self.provenance.sites

    @property
    def dtype(self) -> torch.dtype:
        """In which activations are stored."""
        return STORED[self.metadata["dtype"]]

    @property
    def mean(self) -> Tensor:
        """Mean training activation of each site, `[L, d]` float64."""
        return torch.from_numpy(np.stack([self.statistics[f"{site}.mean"] for site in self.sites]))

    @property
    def variance(self) -> Tensor:
        """Variance of each channel over the training tokens, `[L, d]` float64."""
        return torch.from_numpy(np.stack([self.statistics[f"{site}.variance"] for site in self.sites]))

    def shards(self, split: str | None = None) -> list[Shard]:
        """The files of a split, or of all."""
        shards = [Shard(**record) for record in self.metadata["shards"]]
        return [shard for shard in shards if split in (None, shard.split)]

    @property
    def splits(self) -> dict[str, WholeDocuments]:
        """The whole documents of each split that has any."""
        return {split: self.documents(split) for split in SPLITS if self.shards(split)}

    def source(self, split: str = "train") -> StoredBlocks:
        """The blocks of a split."""
        if split not in SPLITS or not (shards := self.shards(split)):
            held = [name for name in SPLITS if self.shards(name)]
            raise BadInput("split", split, f"Use one of {', '.join(held)}.", why="no blocks are of this split")
        return StoredBlocks(self, shards)

    def tokens(self, split: str = "train", **options: Any) -> ShuffledTokens:
        """Shuffled tokens of a split; `options` are those of `ShuffledTokens`."""
        return ShuffledTokens(self.source(split), **options)

    def documents(self, split: str = "validation") -> WholeDocuments:
        """Whole documents of a split, in the order of the corpus, for evaluation."""
        return WholeDocuments(self.source(split))

    def require_model(self, frozen: FrozenLM, ignore: Sequence[str] = ()) -> None:
        """Raise unless this model made the blocks; `ignore` names provenance fields that may differ."""
        frozen.require_vocabulary(self.metadata["highest_token_id"])
        frozen.provenance(*self.sites).require_same(self.provenance, "the model", "the blocks", ignore)


class StoredBlocks:
    """The blocks of one split, read from their files; a `BlockSource`."""

    def __init__(self, blocks: Blocks, shards: Sequence[Shard]) -> None:
        self.paths = [blocks.folder / shard.file for shard in shards]
        self.sites, self.hidden_size = blocks.sites, int(blocks.metadata["hidden_size"])
        self.sizes = np.array([shard.rows for shard in shards], np.int64)
        self.dtype = torch.float32 if blocks.dtype == torch.int8 else blocks.dtype
        self.device = torch.device("cpu")
        self.min_position: int = blocks.metadata["rules"]["min_position"]
        self._dtype: str = blocks.metadata["dtype"]

    def fill(self, number: int, into: Tensor) -> None:
        read_activations(self.paths[number], self._dtype, self.sites, into)

    def documents(self, number: int) -> list[Tokens]:
        """The documents of a block."""
        return read_documents(self.paths[number])

    def labels(self, number: int) -> Labels:
        return labels_of(self.documents(number), self.min_position)


class DocumentSource(BlockSource, Protocol):
    """Blocks that say which documents are in them."""

    @property
    def min_position(self) -> int: ...

    def documents(self, number: int) -> list[Tokens]: ...


class WholeDocuments(Dataset[dict[str, Tensor]]):
    """Documents one by one, never shuffled.

    Each is a dict: `doc_id`; `input_ids [T]`, the whole document; `position [n]` of its kept tokens, which are its
    last; and `activations [n, L, d]`, in the dtype that tokens have.

    Args:
        source: the blocks.
    """

    def __init__(self, source: DocumentSource) -> None:
        self.source = source
        self._held: tuple[int, list[Tokens], Tensor] | None = None

    @cached_property
    def _places(self) -> np.ndarray:
        """Block and number within it of each document, `[D, 2]`."""
        counts = [len(self.source.documents(block)) for block in range(len(self.source.sizes))]
        return np.array([(block, i) for block, count in enumerate(counts) for i in range(count)]).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"document {index} of {len(self)}")
        block, number = (int(value) for value in self._places[index])
        if self._held is None or self._held[0] != block:
            self._held = None
            self._held = block, self.source.documents(block), self._activations(block)
        _, documents, activations = self._held
        document, first = documents[number], self.source.min_position
        before = sum(len(other.ids) - first for other in documents[:number])
        return {
            "doc_id": torch.tensor(document.doc_id),
            "input_ids": torch.from_numpy(document.ids.astype(np.int64)),
            "position": torch.arange(first, len(document.ids)),
            "activations": activations[before : before + len(document.ids) - first],
        }

    def _activations(self, block: int) -> Tensor:
        source = self.source
        shape = (int(source.sizes[block]), len(source.sites), source.hidden_size)
        held = torch.empty(shape, dtype=source.dtype, device=source.device)
        source.fill(block, held)
        return held
