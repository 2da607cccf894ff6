"""Where texts come from: any Hub dataset, local files, or a dataset in memory; as numbered chunks of documents."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from datasets import (
    Dataset,
    DatasetBuilder,
    DatasetDict,
    Features,
    IterableDataset,
    Value,
    config,
    load_dataset,
    load_dataset_builder,
    load_from_disk,
)
from datasets.data_files import DataFilesList
from datasets.exceptions import DatasetGenerationError, DatasetsError
from datasets.features.features import require_decoding
from datasets.packaged_modules.text.text import TextConfig
from pyarrow import ArrowException

from ..errors import BadInput, is_full_disk
from ..frozen.loading.provenance import hash_files, public_name
from ..options import option

FILE_FORMATS = {
    ".txt": "text",
    ".json": "json",
    ".jsonl": "json",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".csv": "csv",
}
TEXT_OPTIONS = {"encoding": "utf-8-sig"}  # a byte order mark is no part of the first word; other kinds pass over it
HASHED_OF_A_STREAM = 256  # a stream in memory has no end that one could wait for
UNREADABLE = (ArrowException, DatasetsError, ValueError, TypeError, KeyError, OSError)  # what a broken stream raises


@dataclass
class CorpusArguments:
    """Which texts to read."""

    dataset_name: str | None = option(
        None, "Dataset: its Hub id, a local folder, or 'demo' for the offline world of stories."
    )
    dataset_config: str | None = option(None, "Configuration of the Hub dataset.")
    dataset_revision: str | None = option(None, "Branch, tag or commit of the dataset on the Hub.")
    split: str = option("train", "Split of the source that is read.")
    train_file: list[str] | None = option(
        None, "Files to read instead of a dataset: .txt .json .jsonl .csv .parquet .arrow."
    )
    sample_by: str = option("line", "Unit of a .txt file that makes a document.", ["line", "paragraph", "document"])
    text_column: str = option("text", "Column that holds the text.")
    keep_columns: list[str] = option([], "Columns of the source that every row of its document carries along.")
    streaming: bool = option(False, "Streaming: the source is read without downloading it first.")
    max_documents: int | None = option(None, "Number of documents after which reading stops.")


class Document(NamedTuple):
    doc_id: int
    text: str
    kept: dict[str, Any]


class Corpus:
    """Texts in a fixed order; document `i` is the `i`-th of the source, whoever reads it.

    Args:
        source: rows with at least the text column.
        name: how cards call it.
        settled: what settles the texts: hashes of files, the commit of a repository. Left out, the texts are hashed.
        hub_id: where it comes from, if that is a dataset on the Hub.
    """

    def __init__(
        self,
        source: Dataset | IterableDataset,
        arguments: CorpusArguments,
        name: str,
        settled: dict[str, Any] | None = None,
        hub_id: str | None = None,
    ) -> None:
        if arguments.max_documents is not None and arguments.max_documents < 1:
            raise BadInput("max_documents", arguments.max_documents, "Use 1 or more, or leave it out.")
        self.arguments, self.name, self.settled, self.hub_id = arguments, name, settled, hub_id
        self.features = _require_columns(source, arguments)
        source = source.with_format(None)
        if source.features:  # what is not selected is never decoded
            source = source.select_columns(list(dict.fromkeys([arguments.text_column, *self.features])))
        self.source = source

    @classmethod
    def load(cls, arguments: CorpusArguments) -> Corpus:
        """Open what the arguments name; nothing is tokenised yet."""
        if arguments.train_file and arguments.dataset_name:
            raise BadInput("train_file", arguments.train_file, "Use either --train_file or --dataset_name.")
        folder = Path(arguments.dataset_name or "")
        if arguments.dataset_revision and (arguments.train_file or folder.exists()):
            raise BadInput("dataset_revision", arguments.dataset_revision, "Leave it out: local files have none.")
        if arguments.train_file:
            return cls._from_files(arguments)
        if not arguments.dataset_name:
            raise BadInput("dataset_name", None, "Name a Hub dataset (--dataset_name) or local files (--train_file).")
        if (folder / "state.json").exists() or (folder / "dataset_dict.json").exists():
            return cls(_saved(folder, arguments), arguments, public_name(str(folder)))
        if folder.exists():
            fix = "Rename the folder, or name its files with --train_file."
            _require_plain("dataset_name", folder, ["*", "?", "[", "::"], fix)
        builder = _builder(arguments)
        name, settled = public_name(arguments.dataset_name), {"config": arguments.dataset_config}
        options = TEXT_OPTIONS if isinstance(builder.config, TextConfig) else {}
        if folder.exists():
            files = _hash_data_files(builder)
            # `datasets` goes by modification times; its cache for these contents is one of their own.
            cache = Path(config.HF_DATASETS_CACHE, "contents", files.removeprefix("sha256:"))
            builder = _builder(arguments, cache_dir=str(cache), **options)
            return cls(_split(builder, arguments), arguments, name, settled | {"files": files})
        if options:
            builder = _builder(arguments, **options)
        # `datasets` settles on a commit before it reads anything; the hash of a builder from the Hub is that commit.
        asked = arguments.dataset_revision
        if asked and re.fullmatch("[0-9a-f]{40}", asked) and asked != builder.hash:  # offline it takes what it has
            why = f"this machine has only {builder.hash}, and the Hub cannot be asked"
            raise BadInput("dataset_revision", asked, "Go online, or name that commit.", why=why)
        return cls(_split(builder, arguments), arguments, name, settled | {"commit": builder.hash}, name)

    @classmethod
    def _from_files(cls, arguments: CorpusArguments) -> Corpus:
        paths = [Path(path) for path in arguments.train_file or []]
        for path in paths:
            if path.is_dir():
                fix = "Name the files in it, or give the folder as --dataset_name."
                raise BadInput("train_file", str(path), fix, why="it is a folder")
            if not path.is_file():
                raise BadInput("train_file", str(path), "Give the path of a file that exists.")
            _require_plain("train_file", path, ["::"], "Rename it.")
        suffixes = {path.suffix for path in paths}
        kinds = ", ".join(FILE_FORMATS)
        if len(suffixes) > 1 or not suffixes <= set(FILE_FORMATS):
            raise BadInput("train_file", [str(path) for path in paths], f"Give files of one kind: {kinds}.")
        builder = FILE_FORMATS[suffixes.pop()]
        options = TEXT_OPTIONS | {"sample_by": arguments.sample_by} if builder == "text" else {}
        files = [str(path) for path in paths]
        if all(path.stat().st_size == 0 for path in paths):
            raise BadInput("train_file", files, "Give a file with text in it.", why="it is empty")
        # Neither patterns nor modification times: the files that are named, and a cache that goes by what they hold.
        hashes = [hash_files([path]) for path in paths]
        named = DataFilesList([str(path.absolute()) for path in paths], [(value,) for value in hashes])
        try:
            source = load_dataset(
                builder, data_files={"train": named}, split="train", streaming=arguments.streaming, **options
            )
        except (DatasetGenerationError, ValueError, OSError) as error:
            _require_room(error)
            if "corresponds to no data" in str(error):
                raise BadInput("train_file", files, "Give a file with text in it.", why="it is empty") from error
            why = f"it cannot be read as {builder}: {error.__cause__ or error}"
            fix = f"Mend the file, or give it the ending of its kind: {kinds}."
            raise BadInput("train_file", files, fix, why) from error
        name = ", ".join(path.name for path in paths)
        return cls(source, arguments, name, {"files": _hash_in_order(hashes), "sample_by": arguments.sample_by})

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What tells two corpora apart when a run is resumed."""
        known = {"corpus": self.name, "split": self.arguments.split, "text_column": self.arguments.text_column}
        return known | (self.settled or {"texts": self._hash_rows()})

    def _hash_rows(self) -> str:
        """Over all texts and kept values that will be read; of a stream, over the first ones.

        Not `Dataset._fingerprint`: it is private, it is drawn anew in each process after a `map` by a function that
        cannot be pickled, and it changes with the modification time of a file.
        """
        digest, length = hashlib.sha256(), self.num_documents
        if isinstance(self.source, IterableDataset):
            length = min(length or HASHED_OF_A_STREAM, HASHED_OF_A_STREAM)
        for index, documents in self.chunks(HASHED_OF_A_STREAM):
            digest.update(repr([(text, kept) for _, text, kept in documents]).encode(errors="surrogatepass"))
            if (index + 1) * HASHED_OF_A_STREAM >= (length or 0):
                break
        return f"sha256:{digest.hexdigest()}"

    @property
    def num_documents(self) -> int | None:
        """How many documents will be read, where that is known beforehand."""
        length = len(self.source) if isinstance(self.source, Dataset) else None
        limit = self.arguments.max_documents
        return limit if length is None else length if limit is None else min(limit, length)

    def chunks(
        self, size: int, wanted: Callable[[int], bool] = lambda index: True
    ) -> Iterator[tuple[int, list[Document]]]:
        """Consecutive documents, `size` at a time, numbered from 0; those not wanted are passed over."""
        start = 0
        rows = None if isinstance(self.source, Dataset) else iter(self.source)
        while (stop := self._stop(start, size)) > start:
            read = wanted(start // size)
            if rows is not None:
                batch = self._next(rows, start, stop - start)
                if not batch:
                    return
            elif read:
                batch = self._stored(start, stop)
            if read:
                yield start // size, [self._document(start + i, row) for i, row in enumerate(batch)]
            start = stop

    def _stored(self, start: int, stop: int) -> list[dict[str, Any]]:
        """The rows of a table; bytes in it that are no text come to light only here."""
        try:
            columns = self.source[start:stop]
        except UNREADABLE as error:
            why = f"a document from {start} to {stop - 1} cannot be read"
            raise _broken(self.arguments, start, error, why) from error
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def _next(self, rows: Iterator[dict[str, Any]], start: int, count: int) -> list[dict[str, Any]]:
        """The next rows of a stream, fewer at its end."""
        taken: list[dict[str, Any]] = []
        try:
            taken.extend(islice(rows, count))  # keeps what came before an error
        except UNREADABLE as error:
            at = start + len(taken)
            raise _broken(self.arguments, at, error, f"the stream breaks at document {at}") from error
        return taken

    def _stop(self, start: int, size: int) -> int:
        known = self.num_documents
        return start + size if known is None else min(start + size, known)

    def _document(self, doc_id: int, row: dict[str, Any]) -> Document:
        wanted = [self.arguments.text_column, *self.arguments.keep_columns]
        for name in wanted:
            if name not in row:
                fix = "Mend the source: every document needs the column."
                raise BadInput("column", name, fix, why=f"document {doc_id} has only {', '.join(row)}")
        text = row[self.arguments.text_column]
        if text is not None and not isinstance(text, str):
            raise BadInput(
                "text_column",
                self.arguments.text_column,
                "Name a column of strings.",
                why=f"document {doc_id} holds a {type(text).__name__}",
            )
        return Document(doc_id, text or "", {name: row[name] for name in self.arguments.keep_columns})


def _require_columns(source: Dataset | IterableDataset, arguments: CorpusArguments) -> Features:
    """Check text and kept columns; return the features of the kept ones."""
    features = source.features
    first: dict[str, Any] | None = {}
    if isinstance(source, Dataset):
        first = {} if len(source) else None
    elif not features:
        try:
            first = next(iter(source), None)
        except UNREADABLE as error:
            raise _broken(arguments, 0, error, "the stream breaks at document 0") from error
    if first is None:
        raise BadInput("dataset", _source_of(arguments), "Give a source with rows in it.", why="it is empty")
    if not features:
        features = Features({name: Value("string") for name in first})
        if arguments.keep_columns:
            raise BadInput(
                "keep_columns", arguments.keep_columns, "Leave out --streaming.", why="a stream without declared types"
            )
    for field_name, wanted in [("text_column", [arguments.text_column]), ("keep_columns", arguments.keep_columns)]:
        for column in wanted:
            if column not in features:
                near = get_close_matches(column, features, 1)
                hint = f"Did you mean {near[0]!r}? " if near else ""
                raise BadInput(field_name, column, f"{hint}The source has {', '.join(features)}.")
            if require_decoding(features[column], ignore_decode_attribute=True):
                if field_name == "text_column":
                    fix = "Make every value a string, or name a column of strings."
                    raise BadInput(field_name, column, fix, why="not all its values are strings")
                fix = "Name columns of plain values; doc_id leads from a row back to its document, and so to the rest."
                raise BadInput(field_name, column, fix, why=f"it holds {type(features[column]).__name__}")
    return Features({name: features[name] for name in arguments.keep_columns})


def _source_of(arguments: CorpusArguments) -> str | list[str] | None:
    return arguments.dataset_name or arguments.train_file


def _broken(arguments: CorpusArguments, before: int, error: Exception, why: str) -> BadInput:
    fix = f"Mend the source, or stop before with --max_documents {before}." if before else "Mend the source."
    return BadInput("dataset", _source_of(arguments), fix, f"{why}: {type(error).__name__}: {error}")


def _saved(folder: Path, arguments: CorpusArguments) -> Dataset:
    """What `save_to_disk` wrote."""
    try:
        saved = load_from_disk(str(folder))
    except (ArrowException, OSError, ValueError) as error:
        fix = "Save it again with save_to_disk."
        raise BadInput("dataset_name", str(folder), fix, why=f"it cannot be read: {error}") from error
    if not isinstance(saved, DatasetDict):
        return saved
    if arguments.split not in saved:
        raise BadInput("split", arguments.split, f"The dataset has {', '.join(saved)}.")
    return saved[arguments.split]


def _builder(arguments: CorpusArguments, **options: Any) -> DatasetBuilder:
    try:
        return load_dataset_builder(
            arguments.dataset_name, arguments.dataset_config, revision=arguments.dataset_revision, **options
        )
    except RuntimeError as error:  # which `datasets` raises for a loading script
        fix = "Use a copy of it as data files: try --dataset_revision refs/convert/parquet."
        raise BadInput("dataset_name", arguments.dataset_name, fix, why=str(error)) from error
    except (ValueError, OSError, DatasetsError) as error:
        fix = "Check the id, --dataset_config and --dataset_revision on the Hub, and that this machine is online."
        raise BadInput("dataset_name", arguments.dataset_name, fix, why=str(error)) from error


def _split(builder: DatasetBuilder, arguments: CorpusArguments) -> Dataset | IterableDataset:
    """`load_dataset` in two steps: what goes wrong in the second is the split."""
    if not arguments.streaming:
        try:
            builder.download_and_prepare()
        except (ValueError, OSError, DatasetsError) as error:
            _require_room(error)
            fix = "Check its files, and that this machine is online."
            raise BadInput("dataset_name", arguments.dataset_name, fix, why=str(error.__cause__ or error)) from error
    try:
        if arguments.streaming:
            return builder.as_streaming_dataset(split=arguments.split)
        return builder.as_dataset(split=arguments.split)
    except ValueError as error:
        raise BadInput("split", arguments.split, "Use a split of the dataset.", why=str(error)) from error


def _require_room(error: Exception) -> None:
    """Raise where the cache of `datasets` had no room for a source; nothing is wrong with the source."""
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    if is_full_disk(cause) or "Not enough disk space" in str(error):
        fix = "Free some space there, set HF_DATASETS_CACHE to another folder, or use --streaming."
        raise BadInput(
            "HF_DATASETS_CACHE", str(config.HF_DATASETS_CACHE), fix, why=f"no room left: {cause}"
        ) from error


def _hash_data_files(builder: DatasetBuilder) -> str:
    """Over the files of all splits of a local folder: names, order and contents; of files elsewhere, the address."""
    splits = builder.config.data_files or {}
    names = [(str(split), str(file)) for split, found in splits.items() for file in found]
    parts = [(split, hash_files([Path(f)]) if Path(f).is_file() else f) for split, f in names]
    return f"sha256:{hashlib.sha256(repr(parts).encode()).hexdigest()}"


def _hash_in_order(hashes: list[str]) -> str:
    """Over names and contents; other files, or the same in another order, are other documents."""
    if len(hashes) == 1:
        return hashes[0]
    return f"sha256:{hashlib.sha256(repr(hashes).encode()).hexdigest()}"


def _require_plain(name: str, path: Path, signs: list[str], fix: str) -> None:
    """Raise where `datasets` would read something else than the path that is named."""
    found = [sign for sign in signs if sign in f"{path.absolute()} {path.resolve()}"]
    if found:
        raise BadInput(name, str(path), fix, why=f"`datasets` takes {' '.join(found)} in a path for a pattern")
