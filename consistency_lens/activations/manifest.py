"""What binds `extraction.json` to the files beside it: a checksum of each that influences a number, and one of itself.

Folders that were made before there were such checksums are compared as far as they can be: the files of each split are
those that were written, and the statistics are numbers.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from .storage import LAYOUT, METADATA, STATISTICS, CorruptShard, Shard, checksum_of, seal_of

FILES, SEAL = "files", "checksum"
_AGAIN = "Run the extraction again with --resume, which writes it again, or fetch the folder again if it was copied."


def sealed(folder: Path, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata with a checksum of every file beside the shards that says how to read them, and of themselves."""
    files = {name: checksum_of(folder / name) for name in LAYOUT if name != METADATA and (folder / name).is_file()}
    record = json.loads(json.dumps({**metadata, FILES: files}))
    return {**record, SEAL: seal_of(record)}


def read_metadata(path: Path) -> dict[str, Any]:
    """What `extraction.json` says; raise where it is not as written."""
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
        rest = {name: value for name, value in metadata.items() if name != SEAL}
        whole = metadata[SEAL] == seal_of(rest) if SEAL in metadata else FILES not in metadata
        [Shard(**record) for record in metadata["shards"]]
        metadata["splits"].items()
        if "kind" not in metadata:  # rows, which were read at sites; passages are text
            metadata["provenance"]["sites"]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CorruptShard(f"{path} is damaged ({type(error).__name__}: {error}). {_AGAIN}") from error
    if not whole:
        raise _changed(path)
    return metadata


def require_sealed(folder: Path, metadata: Mapping[str, Any]) -> None:
    """Raise unless the files beside the shards are as written, and name the very shards that the metadata name."""
    for name, checksum in metadata.get(FILES, {}).items():
        if not (folder / name).is_file():
            raise CorruptShard(f"{folder / name} is missing. {_AGAIN}")
        if checksum_of(folder / name) != checksum:
            raise _changed(folder / name)
    shards = [Shard(**record) for record in metadata["shards"]]
    if metadata.get("kind", "rows") == "rows":
        _require_layout(folder, shards, list(metadata["splits"]))
    twice = [name for name, times in Counter(shard.file for shard in shards).items() if times > 1]
    rows = Counter[str]()
    for shard in shards:
        rows[shard.split] += shard.rows
    counted = {split: counts.get("rows", counts.get("tokens")) for split, counts in metadata["splits"].items()}
    if twice or any(count != rows[split] for split, count in counted.items()):
        raise _changed(folder / METADATA)


def read_statistics(path: Path, metadata: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Mean and variance of each site; raise where they are missing, or no numbers that a lens could be scaled by."""
    checksum = metadata.get(FILES, {}).get(STATISTICS)
    try:
        if checksum is not None and checksum_of(path) != checksum:
            raise _changed(path)
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CorruptShard(f"{path} is missing or damaged ({error}). {_AGAIN}") from error
    for site in metadata["provenance"]["sites"]:
        for name in (f"{site}.mean", f"{site}.variance"):
            if name not in found or not np.isfinite(found[name]).all():
                raise CorruptShard(f"{path} holds no finite {name}. {_AGAIN}")
        if (found[f"{site}.variance"] < 0).any():
            raise CorruptShard(f"{path} holds a variance below 0 at {site}. {_AGAIN}")
    return found


def _require_layout(folder: Path, shards: Sequence[Shard], splits: list[str]) -> None:
    """Raise unless what `load_from_disk` reads leads to these shards."""
    _require(folder / "dataset_dict.json", lambda record: record["splits"], splits)
    for split in splits:
        _require(
            folder / split / "state.json",
            lambda record, at=split: [f"{at}/{entry['filename']}" for entry in record["_data_files"]],
            [shard.file for shard in shards if shard.split == split],
        )


def _require(path: Path, said: Any, expected: list[str]) -> None:
    try:
        found = said(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CorruptShard(f"{path} is missing or damaged ({error}). {_AGAIN}") from error
    if found != expected:
        raise CorruptShard(f"{path} names other files than {METADATA}: {found} in the place of {expected}. {_AGAIN}")


def _changed(path: Path) -> CorruptShard:
    return CorruptShard(f"{path} is changed (its checksum differs). {_AGAIN}")
