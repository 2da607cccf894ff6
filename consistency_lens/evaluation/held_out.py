"""Which held-out rows are evaluated, in which batches, and what a report says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..activations import Activations
from ..errors import BadInput
from ..frozen import FrozenLM


@dataclass(frozen=True)
class HeldOut:
    """A choice of rows.

    Args:
        split: `train` flatters.
        max_rows: how many, drawn from all documents; default all.
        batch_size: rows per pass. A partner for a row comes from the same batch.
        horizon: how many true next positions are compared as well.
        seed: of the choice.
    """

    split: str = "test"
    max_rows: int | None = None
    batch_size: int = 64
    horizon: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("max_rows", 1), ("batch_size", 1), ("horizon", 0)):
            if (given := vars(self)[name]) is not None and given < least:
                raise BadInput(name, given, f"Use {least} or more.")

    def require_split(self, splits: Mapping[str, Any]) -> None:
        """Raise unless the data has rows of the split."""
        if not len(splits.get(self.split, ())):
            fix = f"Use one of {', '.join(name for name, rows in splits.items() if len(rows))}."
            raise BadInput("split", self.split, fix, why="there are no rows")

    def require(self, activations: Activations, frozen: FrozenLM) -> None:
        """Raise unless this model made the rows, and there are enough of them."""
        activations.require_model(frozen)
        for name, given in (("max_rows", self.max_rows), ("batch_size", self.batch_size)):
            if given is not None and given < 2:
                raise BadInput(name, given, "Use 2 or more: each row needs a partner of another document.")
        self.require_split(activations.splits)
        longest = activations.metadata["rules"]["continuation_length"]
        if self.horizon > longest:
            fix = f"Use 0 to {longest}, or extract with a larger continuation_length."
            raise BadInput("horizon", self.horizon, fix)

    def batches(self, activations: Activations, frozen: FrozenLM, sites: Sequence[str]) -> DataLoader[Any]:
        """Batches of nearly equal size that mix documents."""
        dataset: Any = activations.splits[self.split]
        order = np.random.default_rng(self.seed).permutation(len(dataset))[: self.max_rows]
        parts = np.array_split(order, -(-len(order) // self.batch_size))
        pad_id = frozen.tokenizer.pad_token_id
        collate = activations.collator(pad_id if pad_id is not None else 0, sites=sites)
        return DataLoader(dataset, batch_sampler=[part.tolist() for part in parts], collate_fn=collate)

    def described(self, activations: Activations) -> dict[str, Any]:
        """What a report says of the data."""
        metadata = activations.metadata
        return {
            "corpus": metadata.get("corpus", {}).get("corpus", ""),
            "split": self.split,
            "documents_of_split": metadata["splits"][self.split]["documents"],
            "near_duplicates_of_split": metadata.get("near_duplicates", {}).get(self.split),
            "seed": self.seed,
        }


def moved(value: Any, device: torch.device) -> Any:
    """A batch with all its tensors on a device."""
    if isinstance(value, Mapping):
        return {name: moved(each, device) for name, each in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value
