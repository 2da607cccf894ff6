"""How rows lie on disk: Arrow shards that appear whole or not at all, each with a checksum, in the folder layout that
`load_from_disk`, `load_dataset` and `push_to_hub` accept.

    train/data-00000.arrow ... validation/... test/...   one shard a split and chunk of documents
    dataset_dict.json, */state.json, */dataset_info.json what load_from_disk reads
    README.md                                            the card; its header is what load_dataset reads
    extraction.json, statistics.safetensors              where the rows come from, and what they look like
    .progress/                                           the plan, and a note for each finished chunk
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from datasets import DatasetInfo, Features, List, Value
from safetensors.numpy import load_file, save

from ..errors import BadInput
from .rows import SPLITS

METADATA, STATISTICS, PROGRESS, PLAN = "extraction.json", "statistics.safetensors", ".progress", "plan.json"
TEXT_COLUMNS = ("doc_id", "input_ids", "continuation_ids", "position")
# What a collated batch holds besides columns: a kept column of that name would vanish there.
BATCH_KEYS = ("attention_mask", "continuation_mask", "activations", "pair")
_ROWS_PER_RECORD = 512


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
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise BadInput(
                "output_dir",
                str(path.parent),
                "Free some space and start again with --resume: all finished shards are kept.",
                why=f"no room left to write {path.name}",
            ) from error
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name to write to; it takes the real one when the body ends well, and is removed when it does not."""
    part = path.with_name(path.name + ".part")
    with naming_a_full_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


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

    def write(self, folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
        """Arrays first: a chunk is finished when its JSON is there."""
        write_arrays(folder / PROGRESS / f"{self.index:05d}.safetensors", arrays)
        write_json(folder / PROGRESS / f"{self.index:05d}.json", asdict(self))

    @staticmethod
    def all_in(folder: Path) -> list[ChunkNote]:
        """In the order of the chunks."""
        records = [json.loads(path.read_text()) for path in (folder / PROGRESS).glob("[0-9]*.json")]
        notes = [ChunkNote(**record | {"shards": [Shard(**s) for s in record["shards"]]}) for record in records]
        return sorted(notes, key=lambda note: note.index)

    def arrays(self, folder: Path) -> dict[str, np.ndarray]:
        return load_file(folder / PROGRESS / f"{self.index:05d}.safetensors")

    def forget(self, folder: Path) -> None:
        (folder / PROGRESS / f"{self.index:05d}.json").unlink()


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


def open_folder(folder: Path, resume: bool, overwrite: bool) -> None:
    """Make the output folder ready: empty, or resumed, or overwritten; anything else is refused."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable.part"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise BadInput("output_dir", str(folder), "Choose a folder that you may write to.", why=str(error)) from error
    if resume and overwrite:
        raise BadInput("resume", True, "Use either --resume or --overwrite.", why="overwrite is set too")
    if not any(folder.iterdir()):
        return
    if resume:
        if not (folder / PROGRESS).exists():
            raise BadInput(
                "resume",
                str(folder),
                "Use an empty folder, or that of an extraction.",
                why="what lies there is no extraction that could go on",
            )
        return
    if not overwrite:
        raise BadInput(
            "output_dir",
            str(folder),
            "Use --resume to go on, --overwrite to start afresh, or another folder.",
            why="it is not empty",
        )
    if not any((folder / name).exists() for name in (METADATA, PROGRESS)):
        raise BadInput(
            "overwrite", str(folder), "Empty it yourself if you are sure.", why="what lies there is no extraction"
        )
    clear(folder)


def clear(folder: Path) -> None:
    """Remove an extraction and no other file.

    The plan goes last: as long as it is there, a run with other settings is refused, and finds no shard of this one.
    The folder for notes stays, and with it the right to overwrite.
    """
    (folder / PROGRESS).mkdir(exist_ok=True)
    patterns = [METADATA, STATISTICS, "dataset_dict.json"]
    patterns += [f"{split}/{name}" for split in SPLITS for name in ("data-*", "state.json", "dataset_info.json")]
    patterns += [f"{PROGRESS}/[0-9]*", f"{PROGRESS}/{PLAN}*"]
    for pattern in patterns:
        for path in folder.glob(pattern):
            path.unlink()
