"""Rows of a chunk as an Arrow table, and the writer that stores them with their statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Features

from ...frozen import FrozenLM
from ..precision import fits_float16, require_finite
from ..statistics import SiteStatistics
from ..storage import Shard, note_of, with_dtype, write_shard
from .reader import Vectors
from .rows import Prepared


def table_of(prepared: Sequence[Prepared], vectors: Vectors, features: Features, continuation_length: int) -> pa.Table:
    """One row per document and position, in that order."""
    schema = features.arrow_schema
    pairs = [(p, int(position)) for p in prepared for position in p.positions]
    columns = {
        "doc_id": pa.array([p.doc_id for p, _ in pairs], pa.int64()),
        "input_ids": _token_lists([p.ids[: position + 1] for p, position in pairs]),
        "continuation_ids": _token_lists(
            [p.ids[position + 1 : position + 1 + continuation_length] for p, position in pairs]
        ),
        "position": pa.array([position for _, position in pairs], pa.int32()),
    }
    for site, values in vectors.items():
        kind = schema.field(site).type
        flat = values.float().numpy().astype(kind.value_type.to_pandas_dtype(), copy=False)
        columns[site] = pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), type=kind)
    for name in features:
        if name not in columns:
            columns[name] = pa.array([p.kept[name] for p, _ in pairs], schema.field(name).type)
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)


def _token_lists(lists: Sequence[np.ndarray]) -> pa.ListArray:
    offsets = np.cumsum([0, *(len(ids) for ids in lists)], dtype=np.int32)
    flat = np.concatenate(lists) if lists else np.zeros(0, np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat, pa.int32()))


class ChunkWriter:
    """Stores chunks: a shard per split, then the note that says the chunk is done.

    From the first chunk with a value that float16 cannot hold on, everything is written as float32.
    """

    def __init__(
        self,
        folder: Path,
        features: Features,
        continuation_length: int,
        sites: Sequence[str],
        model: FrozenLM,
    ) -> None:
        self.folder, self.features, self.continuation_length = folder, features, continuation_length
        self.sites, self.model = list(sites), model

    @property
    def dtype(self) -> str:
        return self.features[self.sites[0]].feature.dtype

    def store(self, index: int, num_documents: int, parts: Mapping[str, tuple[list[Prepared], Vectors]]) -> None:
        """Store one chunk: of each split its documents and their activations."""
        for prepared, vectors in parts.values():
            require_finite(prepared, vectors, self.model)
            if self.dtype == "float16" and not all(fits_float16(values) for values in vectors.values()):
                self.features = with_dtype(self.features, self.sites, "float32")
        shards: list[Shard] = []
        arrays: dict[str, np.ndarray] = {}
        for split, (prepared, vectors) in parts.items():
            if split == "train":
                for site, values in vectors.items():
                    arrays |= SiteStatistics.of(values.float().numpy()).to_arrays(site)
            if prepared:
                table = table_of(prepared, vectors, self.features, self.continuation_length)
                shards.append(write_shard(self.folder, split, index, table))
        own = {split: prepared for split, (prepared, _) in parts.items()}
        note, more = note_of(index, num_documents, self.dtype, shards, own)
        note.write(self.folder, arrays | more)
