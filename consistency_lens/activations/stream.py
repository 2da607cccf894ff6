"""The rows of an extraction, computed while they are consumed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from datasets import Features

from ..frozen import FrozenLM
from .reader import ChunkReader
from .rows import prepare
from .table import table_of

if TYPE_CHECKING:
    from .extract import Extraction


class RowStream:
    """Called, it yields the rows of one split, chunk by chunk as they would be stored.

    `datasets` hashes what it generates from by pickling it. A closure would drag the weights along, byte by byte; of
    this object it sees the request alone.
    """

    def __init__(self, extraction: Extraction, frozen: FrozenLM, split: str, features: Features) -> None:
        self.extraction, self.frozen, self.split, self.features = extraction, frozen, split, features

    def __getstate__(self) -> dict[str, Any]:
        request = {"model": self.frozen.model_id, "sites": self.extraction.sites, "split": self.split}
        return request | self.extraction.corpus.identity | asdict(self.extraction.rules)

    def __call__(self) -> Iterator[dict[str, Any]]:
        given, rules = self.extraction.arguments, self.extraction.rules
        reader = ChunkReader(self.frozen, self.extraction.sites, given.batch_size)
        for _, documents in self.extraction.corpus.chunks(given.documents_per_shard):
            if prepared := prepare(documents, self.extraction.tokenizer, rules)[self.split]:
                table = table_of(prepared, reader.read(prepared), self.features, rules.continuation_length)
                yield from table.to_pylist()
