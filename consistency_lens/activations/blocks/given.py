"""Documents that somebody has, with or without their activations: a plain data set is checked, and becomes blocks.

Shapes: n tokens with activations, d hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset, IterableDataset
from torch import Tensor

from ...errors import BadInput
from ...frozen import FrozenLM, Site
from .. import plain
from ..documents import SPLITS, Tokens
from .data import UnstoredBlocks
from .documents import BlockRules, BlockSource
from .reader import BlockReader
from .stream import BlockStream, TokenizedCorpus

KINDS = "Blocks, the path of a folder of them, a BlockStream"
_ROWS, _BATCH = 256, 16  # documents of a chunk, and of a pass, as an extraction has them


def blocks_of(
    dataset: Any, frozen: FrozenLM, sites: str | Site | Sequence[str | Site] | None, eval_dataset: Any = None
) -> UnstoredBlocks:
    """The blocks of a plain data set, as `Blocks.from_dataset` describes it."""
    splits = plain.splits_of(dataset, eval_dataset, KINDS)
    if unknown := sorted(set(splits) - set(SPLITS)):
        raise BadInput("train_dataset", unknown[0], f"Name its splits {', '.join(SPLITS)}.", why="an unknown split")
    names, train = plain.named_sites(splits["train"], frozen, sites), splits["train"]
    if not plain.site_columns(train):
        return BlockStream(texts_of(splits, frozen, 1), BlockReader(frozen, names, _BATCH, 1))
    meaning = dict.fromkeys(names, "a list of vectors for each document, the activations of its last tokens")
    for split, rows in splits.items():
        if isinstance(rows, IterableDataset):
            fix = "Give a Dataset, or the documents without their activations."
            raise BadInput("train_dataset", "IterableDataset", fix, why="tokens are shuffled over all documents")
        otherwise = "Or leave out all such columns: the model then reads the documents."
        plain.require_columns(rows, meaning, plain.field_of(split), otherwise)
    head = train.select(range(min(1, len(train))))
    (length,) = texts_of({"train": head}, frozen, 0).lengths["train"]
    texts = texts_of(splits, frozen, max(length - len(_vectors(head, "train_dataset", names[0])[0]), 0))
    sources = {split: GivenBlocks(rows, texts, split, names, frozen) for split, rows in splits.items()}
    kinds = {own.vectors(n, site).dtype for own in sources.values() for n in range(len(own.sizes)) for site in names}
    for own in sources.values():
        own.dtype = torch.float16 if kinds == {np.dtype(np.float16)} else torch.float32
    return UnstoredBlocks(sources, texts.metadata(frozen, names, own.dtype))


def texts_of(splits: Mapping[str, Any], frozen: FrozenLM, first: int) -> TokenizedCorpus:
    """The documents of all splits, of which the tokens from `first` on are kept; raise where they cannot be used."""
    name = "input_ids" if "input_ids" in plain.columns_of(splits["train"]) else "text"
    room = min(512, frozen.max_length) if name == "text" else frozen.max_length
    texts = TokenizedCorpus(BlockRules(min_position=first, max_length=room))
    numbers, split_of = set[int](), dict[bytes, str]()
    for split, rows in splits.items():
        field, read = plain.field_of(split), 0
        plain.require_columns(rows, {name: "a document in each row"}, field, "Or input_ids, its token ids.")
        columns = [each for each in (name, "doc_id") if each in plain.columns_of(rows)]
        for batch in rows.select_columns(columns).with_format(None).iter(batch_size=_ROWS):
            found, following = _ids_of(batch[name], frozen, field, name, room), max(numbers, default=-1) + 1
            own = plain.integers(batch.get("doc_id", range(following, following + len(found))), field, "doc_id")
            documents = [Tokens(int(n), np.asarray(ids, np.int32)) for n, ids in zip(own, found, strict=True)]
            read += len(documents)
            if isinstance(rows, IterableDataset):
                plain.require_end(read, field)
            for document in documents:
                if document.doc_id in numbers:
                    fix = "Give each document, of all splits, a number of its own; or leave the column out."
                    raise BadInput(field, "doc_id", fix, why=f"two documents have the number {document.doc_id}")
                numbers.add(document.doc_id)
                other = split_of.setdefault(blake2b(document.ids.tobytes(), digest_size=16).digest(), split)
                if other != split:
                    why = f"document {document.doc_id} of {split} stands in {other}, too"
                    raise BadInput(field, name, "Leave it in one of them.", why=why)
            texts.add(split, [document for document in documents if document.length > first])
        if not texts.lengths[split]:
            raise BadInput(field, name, f"Give a document of {first + 1} tokens or more.", why="there is none")
    return texts


def _ids_of(values: list[Any], frozen: FrozenLM, field: str, name: str, room: int) -> list[Any]:
    """The token ids of each document; what is text is cut, and ids that the model does not take are refused."""
    found = values
    if name == "text":
        if not all(isinstance(text, str) for text in values):
            raise BadInput(field, name, "Give each document a string in the column text.", why="it holds no strings")
        found = frozen.tokenizer(values, truncation=True, max_length=room)["input_ids"]
    plain.highest_id(found, frozen, field, name, "a document is empty")
    if (longest := max(map(len, found))) > room:
        fix = f"Cut documents after {room} tokens: {frozen.model_id} takes no more."
        raise BadInput(field, name, fix, why=f"a document has {longest} tokens")
    return found


def _vectors(rows: Dataset, field: str, site: str) -> list[np.ndarray]:
    """The activations `[n, d]` of each row."""
    column = rows.select_columns([site]).with_format("arrow")[:][site].combine_chunks()
    levels: list[Any] = [column.storage if isinstance(column, pa.ExtensionArray) else column]
    while not levels[-1].null_count and isinstance(
        levels[-1], (pa.ListArray, pa.LargeListArray, pa.FixedSizeListArray)
    ):
        levels.append(levels[-1].flatten())
    widths = set(pc.list_value_length(levels[1]).to_pylist()) if len(levels) == 3 else set()
    if len(widths) != 1 or levels[-1].null_count:
        fix = f"Give each document a list of vectors of one length in the column {site}."
        raise BadInput(field, site, fix, why="it holds something else")
    values = levels[2].to_numpy(zero_copy_only=False).reshape(-1, widths.pop())
    return np.split(values, np.cumsum(pc.list_value_length(levels[0]).to_numpy())[:-1])


class GivenBlocks(BlockSource):
    """The blocks of one split, out of the columns of a data set."""

    def __init__(self, rows: Dataset, texts: TokenizedCorpus, split: str, sites: list[str], frozen: FrozenLM) -> None:
        self.rows, self.texts, self.split, self.sites, self.frozen = rows, texts, split, sites, frozen
        self.sizes, self.min_position = texts.sizes(split), texts.rules.min_position
        self.hidden_size, self.device = frozen.hidden_size, torch.device("cpu")
        if (left := len(rows) - len(texts.lengths[split])) > 0:
            fix = f"Leave out documents of {self.min_position} tokens or fewer."
            raise BadInput(plain.field_of(split), sites[0], fix, why=f"{left} documents have no activations")

    def documents(self, number: int) -> list[Tokens]:
        return self.texts.documents(self.split, number)

    def fill(self, number: int, into: Tensor) -> None:
        for place, site in enumerate(self.sites):
            into[:, place].copy_(torch.from_numpy(self.vectors(number, site)))

    def vectors(self, number: int, site: str) -> np.ndarray:
        """The activations `[n, d]` of a block at a site; raise where they are not those of all its kept tokens."""
        cut, field = self.texts.cuts[self.split][number], plain.field_of(self.split)
        found = _vectors(self.rows.select(range(cut.start, cut.stop)), field, site)
        for row, length in enumerate(self.texts.lengths[self.split][cut]):
            if (own := len(found[row])) != length - self.min_position:
                fix = f"Give one for each token but the first {self.min_position}, as the first document has them."
                raise BadInput(field, site, fix, why=f"row {cut.start + row} has {own} vectors and {length} tokens")
        return plain.require_vectors(np.concatenate(found), self.frozen, field, site)
