"""How rows lie on disk: Arrow shards that appear whole or not at all, each with a checksum, in the folder layout that
`load_from_disk`, `load_dataset` and `push_to_hub` accept.

    train/data-00000.arrow ... validation/... test/...   one shard a split and chunk of documents
    dataset_dict.json, */state.json, */dataset_info.json what load_from_disk reads
    README.md                                            the card; its header is what load_dataset reads
    extraction.json, statistics.safetensors              where the rows come from, and what they look like
    .progress/                                           the plan, and a note for each finished chunk
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from datasets import DatasetInfo, Features, List, Value
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from .. import files
from ..errors import BadInput, is_full_disk
from ..schema import many, named, read_json, record, text, whole
from .documents import SPLITS, Tokens
from .statistics import SKETCH_SIZE, sketch

METADATA, STATISTICS, PROGRESS = "extraction.json", "statistics.safetensors", ".progress"
# What says how to read the shards.
LAYOUT = [METADATA, STATISTICS, "dataset_dict.json"]
LAYOUT += [f"{split}/{name}" for split in SPLITS for name in ("state.json", "dataset_info.json")]
TEXT_COLUMNS = ("doc_id", "input_ids", "continuation_ids", "position")
# What a collated batch holds besides columns: a kept column of that name would vanish there.
BATCH_KEYS = ("attention_mask", "continuation_mask", "activations", "pair")
_ROWS_PER_RECORD = 512


_CHECKSUM = text(r"|[0-9a-f]{32}", "a checksum of 32 digits")
# What is written down of a shard, and of a chunk of documents.
SHARD = record(
    {
        "file": text(r"\w[\w.-]*(/\w[\w.-]*){0,4}", "a file such as train/data-00000.arrow", 200),
        "split": text(r"\w{1,64}", "the name of a split"),
        "rows": whole(),
        "bytes": whole(),
        "checksum": _CHECKSUM,
    }
)
_NOTE = record(
    {
        **dict.fromkeys(["index", "tokens", "too_short", "highest_id"], whole(-1)),
        "dtype": text(r"\w{1,32}", "the name of a dtype"),
        "shards": many(SHARD),
        "documents": named(whole(), most=64),
        "arrays_checksum": _CHECKSUM,
    },
    {"checksum": _CHECKSUM},
)


class CorruptShard(ValueError):
    """A file that is not what was written."""


def features_of(sites: Sequence[str], hidden_size: int, dtype: str, kept: Features) -> Features:
    """The columns of every row."""
    clash = [name for name in kept if name in (*TEXT_COLUMNS, *BATCH_KEYS, *sites)]
    if clash:
        raise BadInput(
            "keep_columns", clash[0], "Rename the column in the source.", why="rows or batches use this name"
        )
    return Features(
        {
            "doc_id": Value("int64"),
            "input_ids": List(Value("int32")),
            "continuation_ids": List(Value("int32")),
            "position": Value("int32"),
            **{site: List(Value(dtype), length=hidden_size) for site in sites},
            **kept,
        }
    )


def with_dtype(features: Features, sites: Sequence[str], dtype: str) -> Features:
    """The same columns with the vectors stored in another dtype."""
    return Features(
        {name: List(Value(dtype), kind.length) if name in sites else kind for name, kind in features.items()}
    )


def checksum_of(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def naming_a_full_disk(path: Path) -> Iterator[None]:
    """Say which folder ran out of room while this file was written, and how to go on."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if is_full_disk(error):
            raise BadInput(
                "output_dir",
                str(path.parent),
                "Free some space and start again with --resume: all finished shards are kept. "
                "Passages are made again, with --overwrite.",
                why=f"no room left to write {path.name}",
            ) from error
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """As `files.replacing`; a later run finds what a kill has left."""
    with naming_a_full_disk(path), files.replacing(path, path.with_name(f"{path.name}.part")) as part:
        yield part


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    with replacing(path) as part:
        part.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with replacing(path) as part:
        part.write_bytes(save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))


@dataclass(frozen=True)
class Shard:
    """One Arrow file: what it should be."""

    file: str
    split: str
    rows: int
    bytes: int
    checksum: str

    def verify(self, folder: Path) -> None:
        """Raise unless the file is there and every byte of it is as written."""
        path = folder / self.file
        size = path.stat().st_size if path.exists() else None
        found = (
            "missing" if size is None else f"{size} bytes long instead of {self.bytes}" if size != self.bytes else None
        )
        if found is None and checksum_of(path) != self.checksum:
            found = "changed (its checksum differs)"
        if found:
            raise CorruptShard(
                f"{path} is {found}. Remove it and run the extraction again with --resume, which makes this shard "
                "again, or fetch the folder again if it was copied."
            )


@dataclass(frozen=True)
class ChunkNote:
    """What is remembered of one finished chunk of documents."""

    index: int
    dtype: str
    shards: list[Shard]
    documents: dict[str, int]
    tokens: int
    too_short: int
    highest_id: int
    arrays_checksum: str = ""
    checksum: str = ""  # of all the above; notes of the first versions have none

    @staticmethod
    def files(folder: Path) -> list[Path]:
        return sorted((folder / PROGRESS).glob("[0-9]*.json"))

    @staticmethod
    def read(file: Path) -> ChunkNote:
        try:
            found = read_json(file, _NOTE, "output_dir", file.name, "It is made again.")
            note = ChunkNote(**found | {"shards": [Shard(**shard) for shard in found["shards"]]})
        except BadInput as error:
            raise CorruptShard(f"{file} is damaged ({error.why}).") from error
        except TypeError as error:  # a field that no note has
            raise CorruptShard(f"{file} is damaged ({error}).") from error
        if note.checksum not in ("", note.sealed().checksum):
            raise CorruptShard(f"{file} is changed (its checksum differs).")
        return note

    def sealed(self) -> ChunkNote:
        """With the checksum that it should have."""
        return replace(self, checksum=seal_of({**asdict(self), "checksum": ""}))

    def file(self, folder: Path) -> Path:
        return folder / PROGRESS / f"{self.index:05d}.json"

    def _arrays_file(self, folder: Path) -> Path:
        return self.file(folder).with_suffix(".safetensors")

    def write(self, folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
        """Arrays first: a chunk is finished when its JSON is there."""
        write_arrays(self._arrays_file(folder), arrays)
        finished = replace(self, arrays_checksum=checksum_of(self._arrays_file(folder)))
        write_json(self.file(folder), asdict(finished.sealed()))

    def arrays(self, folder: Path) -> dict[str, np.ndarray]:
        return load_file(self._arrays_file(folder))

    def verify(self, folder: Path) -> None:
        """Raise unless the shards and the arrays of this chunk are as written."""
        for shard in self.shards:
            shard.verify(folder)
        arrays = self._arrays_file(folder)
        if not arrays.exists() or checksum_of(arrays) != self.arrays_checksum:
            raise CorruptShard(f"{arrays} is missing or changed.")


def note_of(
    index: int, count: int, dtype: str, shards: list[Shard], documents: Mapping[str, Sequence[Tokens]]
) -> tuple[ChunkNote, dict[str, np.ndarray]]:
    """The note that says a chunk of `count` documents is done, with what it keeps of those that were stored."""
    every = [document for own in documents.values() for document in own]
    sizes = {split: len(own) for split, own in documents.items()}
    arrays: dict[str, np.ndarray] = {
        "sketches": np.array([sketch(document.ids) for document in every], np.uint64).reshape(-1, SKETCH_SIZE),
        "splits": np.repeat(np.arange(len(sizes), dtype=np.int8), list(sizes.values())),
    }
    tokens, highest = sum(d.length for d in every), max((int(d.ids.max()) for d in every), default=0)
    return ChunkNote(index, dtype, shards, sizes, tokens, count - len(every), highest), arrays


def seal_of(record: Mapping[str, Any]) -> str:
    """The checksum of a record."""
    return xxhash.xxh3_128(json.dumps(record, sort_keys=True).encode()).hexdigest()


def write_shard(folder: Path, split: str, index: int, table: pa.Table) -> Shard:
    """Write the rows of one split of one chunk; on disk only when complete."""
    path = folder / split / f"data-{index:05d}.arrow"
    with replacing(path) as part:
        with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=_ROWS_PER_RECORD)
        size, checksum = part.stat().st_size, checksum_of(part)
    return Shard(f"{split}/{path.name}", split, len(table), size, checksum)


def write_layout(folder: Path, features: Features, shards: Sequence[Shard]) -> list[str]:
    """The small files that turn shards into a dataset; returns the splits that have rows."""
    splits = [split for split in SPLITS if any(shard.split == split for shard in shards)]
    for split in splits:
        own = [shard for shard in shards if shard.split == split]
        fingerprint = xxhash.xxh3_64("".join(shard.checksum for shard in own).encode()).hexdigest()
        state: dict[str, Any] = {
            "_data_files": [{"filename": Path(shard.file).name} for shard in own],
            "_fingerprint": fingerprint,
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": split,
        }
        write_json(
            folder / split / "dataset_info.json",
            asdict(DatasetInfo(features=features)) | {"features": features.to_dict()},
        )
        write_json(folder / split / "state.json", state)
    write_json(folder / "dataset_dict.json", {"splits": splits})
    return splits
