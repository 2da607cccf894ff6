"""The data of a `CrosslayerTranscoderTrainer`: shuffled tokens to train on, whole held-out documents to evaluate on.

Shapes: B tokens of a batch, D sites of the data, L chosen layers, d hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, IterableDataset
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from ...activations.blocks import BlockData, Blocks, BlockSource, BlockStream, ShuffledTokens
from ...base.training_data import TrainingData
from ...errors import BadInput
from ...frozen import FrozenLM
from ..coding.standardising import Moments
from ..configuration import CrosslayerTranscoderConfig


@dataclass(frozen=True)
class StreamedBlocks:
    """Tokens that the model computes while a transcoder is trained on them; what is held out, and the statistics, are
    those of stored blocks.

    Args:
        stored: blocks of the same corpus, or of a part of it, by the same rules.
        stream: the training tokens.
    """

    stored: Blocks
    stream: BlockStream


class Texts(TorchDataset[dict[str, Tensor]]):
    """Whole documents as tokens, which the model reads when they are needed: `doc_id` and `input_ids [T]`.

    Args:
        source: of the blocks that hold them.
    """

    def __init__(self, source: BlockSource) -> None:
        found = [document for block in range(len(source.sizes)) for document in source.documents(block)]
        self.documents = [document for document in found if len(document.ids) > 1]

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        document = self.documents[index]
        return {
            "doc_id": torch.tensor(document.doc_id),
            "input_ids": torch.from_numpy(document.ids.astype(np.int64)),
        }


@dataclass(frozen=True)
class Collator:
    """Batches of shuffled tokens come whole; documents are padded on the left."""

    pad_id: int

    def __call__(self, rows: Any) -> dict[str, Any]:
        return rows if isinstance(rows, dict) else self.padded(rows)

    def padded(self, documents: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """`doc_id [B]`, `input_ids` and `attention_mask` `[B, S]`."""
        width = max(len(document["input_ids"]) for document in documents)
        ids = torch.full((len(documents), width), self.pad_id)
        mask = torch.zeros_like(ids)
        for row, document in enumerate(documents):
            length = len(document["input_ids"])
            ids[row, width - length :], mask[row, width - length :] = document["input_ids"], 1
        return {"doc_id": torch.stack([d["doc_id"] for d in documents]), "input_ids": ids, "attention_mask": mask}


def collator_of(frozen: FrozenLM) -> Collator:
    pad_id = frozen.tokenizer.pad_token_id
    return Collator(0 if pad_id is None else int(pad_id))


@dataclass(frozen=True)
class TranscoderData:
    """What a trainer asks of the blocks that it was given.

    Args:
        tokens: to train on.
        texts: the training documents.
        held_out: documents, or several sets of them by name, or None.
        means, variances: of each site over all training tokens, `[D, d]` float64.
        read, written: which of the sites of the data these are, one for each chosen layer.
        metadata: what the blocks say of themselves.
    """

    tokens: ShuffledTokens
    texts: BlockSource
    held_out: Any
    means: Tensor
    variances: Tensor
    read: Tensor
    written: Tensor
    metadata: Mapping[str, Any]

    def moments(self) -> tuple[Moments, Moments]:
        """Statistics of what is read and of what is written."""
        count = len(self.tokens)
        read, written = (
            Moments(count, self.means[sites], self.variances[sites] * count) for sites in (self.read, self.written)
        )
        return read, written

    def split(self, activations: Tensor) -> tuple[Tensor, Tensor]:
        """What is read and what is written, `[B, L, d]` each, of `[B, D, d]`."""
        read, written = (at_sites(activations, sites) for sites in (self.read, self.written))
        return read, written

    def training_data(self, frozen: FrozenLM) -> TrainingData:
        def example() -> str:
            first = self.held_out if isinstance(self.held_out, Texts) else Texts(self.texts)
            return str(frozen.tokenizer.decode(first[0]["input_ids"][:40], skip_special_tokens=True))

        return TrainingData(self.tokens, collator_of(frozen), self.held_out, self.metadata, example)


def at_sites(activations: Tensor, sites: Tensor) -> Tensor:
    """Some sites of `[B, D, d]`: without a copy where they stand at equal distances, as stored ones do."""
    steps = sites.diff()
    if len(steps) and bool((steps == steps[0]).all()) and steps[0] > 0:
        return activations[:, int(sites[0]) : int(sites[-1]) + 1 : int(steps[0])]
    return activations[:, sites.to(activations.device)]


def open_blocks(
    given: Any, frozen: FrozenLM, sites: Sequence[str], eval_dataset: Any = None
) -> BlockData | StreamedBlocks:
    """Whatever a trainer may be given: blocks, stored or streamed, the path of a folder of them, or documents."""
    if isinstance(given, (str, Path)):
        return Blocks.load(given)
    if isinstance(given, (BlockData, StreamedBlocks)):
        return given
    return Blocks.from_dataset(given, frozen, sites, eval_dataset)


def open_data(
    given: Any, eval_dataset: Any, config: CrosslayerTranscoderConfig, frozen: FrozenLM, seed: int, window: int
) -> TranscoderData:
    """Blocks, stored or streamed, checked against the model and the lens.

    Args:
        given: as `open_blocks` takes it.
        eval_dataset: blocks whose validation split is held out, documents, several of either by name, or None for the
            validation split of `given`.
        config: of the lens.
        frozen: the model.
        seed: of the order of the tokens.
        window: how many blocks are shuffled together.
    """
    if isinstance(given, (Dataset, IterableDataset)) and isinstance(eval_dataset, Dataset):  # none may stand in both
        blocks, eval_dataset = open_blocks(given, frozen, config.all_sites, eval_dataset), None
    else:
        blocks = open_blocks(given, frozen, config.all_sites)
    stored, made = (blocks.stored, blocks.stream) if isinstance(blocks, StreamedBlocks) else (blocks, blocks)
    stored.require_model(frozen)
    made.require_model(frozen)
    if made.sites != stored.sites:
        fix = "Stream the sites that are stored."
        raise BadInput("sites", list(made.sites), fix, why=f"the stored blocks hold {', '.join(stored.sites)}")
    sites = list(stored.sites)
    missing = [site for site in config.all_sites if site not in sites]
    if missing:
        fix = f"Extract with --sites {config.read_stage}.* {config.write_stage}.*, or choose other layers."
        raise BadInput("sites", sites, fix, why=f"the lens reads and writes {missing[0]}, which the blocks lack")
    return TranscoderData(
        tokens=made.tokens("train", seed=seed, blocks_per_window=window),
        texts=made.source("train"),
        held_out=_held_out(stored, eval_dataset, frozen),
        means=stored.mean,
        variances=stored.variance,
        read=torch.tensor([sites.index(site) for site in config.read_sites]),
        written=torch.tensor([sites.index(site) for site in config.written_sites]),
        metadata=stored.metadata,
    )


def _held_out(blocks: BlockData, eval_dataset: Any, frozen: FrozenLM) -> Any:
    if isinstance(eval_dataset, Mapping):
        return {name: _held_out(blocks, each, frozen) for name, each in eval_dataset.items()}
    if isinstance(eval_dataset, Texts):
        return eval_dataset
    if isinstance(eval_dataset, Dataset):
        return Texts(Blocks.from_dataset(eval_dataset, frozen, blocks.sites).source("train"))
    chosen = blocks if eval_dataset is None else open_blocks(eval_dataset, frozen, blocks.sites)
    chosen = chosen.stored if isinstance(chosen, StreamedBlocks) else chosen
    chosen.require_model(frozen)  # their tokens are those of its tokenizer
    return Texts(chosen.source("validation")) if "validation" in chosen.splits else None
