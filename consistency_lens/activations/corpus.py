"""Where texts come from: any Hub dataset, local files, or a dataset in memory; as numbered chunks of documents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset, DatasetDict, Features, IterableDataset, Value, load_dataset, load_from_disk
from datasets.exceptions import DatasetGenerationError

from ..errors import BadInput
from ..frozen.provenance import hash_files, public_name

FILE_FORMATS = {
    ".txt": "text",
    ".json": "json",
    ".jsonl": "json",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".csv": "csv",
}


@dataclass
class CorpusArguments:
    """Which texts to read."""

    dataset_name: str | None = field(
        default=None,
        metadata={"help": "Hub dataset id, local dataset folder, or 'demo' for the offline world of stories."},
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of the Hub dataset."})
    split: str = field(default="train", metadata={"help": "Which split of the source to read."})
    train_file: list[str] | None = field(
        default=None, metadata={"help": "Local files instead: .txt .json .jsonl .csv .parquet .arrow."}
    )
    sample_by: str = field(
        default="line",
        metadata={"help": "What one document of a .txt file is.", "choices": ["line", "paragraph", "document"]},
    )
    text_column: str = field(default="text", metadata={"help": "Column that holds the text."})
    keep_columns: list[str] = field(
        default_factory=list, metadata={"help": "Columns of the source that every row of its document carries along."}
    )
    streaming: bool = field(
        default=False, metadata={"help": "Read the source as a stream, without downloading it first."}
    )
    max_documents: int | None = field(default=None, metadata={"help": "Stop after so many documents."})


class Document(NamedTuple):
    doc_id: int
    text: str
    kept: dict[str, Any]


class Corpus:
    """Texts in a fixed order; document `i` is the `i`-th of the source, whoever reads it.

    Args:
        source: rows with at least the text column.
        name: how cards call it.
        identity: what tells two corpora apart when a run is resumed.
        hub_id: where it comes from, if that is a dataset on the Hub.
    """

    def __init__(
        self,
        source: Dataset | IterableDataset,
        arguments: CorpusArguments,
        name: str,
        identity: dict[str, Any] | None = None,
        hub_id: str | None = None,
    ) -> None:
        if arguments.max_documents is not None and arguments.max_documents < 1:
            raise BadInput("max_documents", arguments.max_documents, "Use 1 or more, or leave it out.")
        self.source, self.arguments, self.name, self.hub_id = source, arguments, name, hub_id
        self.features = _require_columns(source, arguments)
        self.identity = {"corpus": name, "split": arguments.split, "text_column": arguments.text_column} | (
            identity or {}
        )

    @classmethod
    def load(cls, arguments: CorpusArguments) -> Corpus:
        """Open what the arguments name; nothing is tokenised yet."""
        if arguments.train_file:
            return cls._from_files(arguments)
        if not arguments.dataset_name:
            raise BadInput("dataset_name", None, "Name a Hub dataset (--dataset_name) or local files (--train_file).")
        folder = Path(arguments.dataset_name)
        if (folder / "state.json").exists() or (folder / "dataset_dict.json").exists():
            saved = load_from_disk(str(folder))
            if isinstance(saved, DatasetDict):
                if arguments.split not in saved:
                    raise BadInput("split", arguments.split, f"The dataset has {', '.join(saved)}.")
                saved = saved[arguments.split]
            state = folder / (arguments.split if (folder / "dataset_dict.json").exists() else "") / "state.json"
            return cls(saved, arguments, public_name(str(folder)), {"files": hash_files([state])})
        try:
            source = load_dataset(
                arguments.dataset_name, arguments.dataset_config, split=arguments.split, streaming=arguments.streaming
            )
        except (ValueError, FileNotFoundError, ConnectionError) as error:
            field_name = "split" if "split" in str(error).lower() else "dataset_name"
            raise BadInput(
                field_name,
                arguments.split if field_name == "split" else arguments.dataset_name,
                "Check the id, --dataset_config and --split on the Hub, and that this machine is online.",
                why=str(error),
            ) from error
        name = public_name(arguments.dataset_name)
        return cls(source, arguments, name, {"config": arguments.dataset_config}, None if folder.exists() else name)

    @classmethod
    def _from_files(cls, arguments: CorpusArguments) -> Corpus:
        paths = [Path(path) for path in arguments.train_file or []]
        for path in paths:
            if not path.is_file():
                raise BadInput("train_file", str(path), "Give the path of a file that exists.")
        suffixes = {path.suffix for path in paths}
        kinds = ", ".join(FILE_FORMATS)
        if len(suffixes) > 1 or not suffixes <= set(FILE_FORMATS):
            raise BadInput("train_file", [str(path) for path in paths], f"Give files of one kind: {kinds}.")
        builder = FILE_FORMATS[suffixes.pop()]
        options = {"sample_by": arguments.sample_by} if builder == "text" else {}
        files = [str(path) for path in paths]
        if all(path.stat().st_size == 0 for path in paths):
            raise BadInput("train_file", files, "Give a file with text in it.", why="it is empty")
        try:
            source = load_dataset(builder, data_files=files, split="train", streaming=arguments.streaming, **options)
        except (DatasetGenerationError, ValueError) as error:
            if "corresponds to no data" in str(error):
                raise BadInput("train_file", files, "Give a file with text in it.", why="it is empty") from error
            why = f"it cannot be read as {builder}: {error.__cause__ or error}"
            fix = f"Mend the file, or give it the ending of its kind: {kinds}."
            raise BadInput("train_file", files, fix, why) from error
        name = ", ".join(path.name for path in paths)
        return cls(source, arguments, name, {"files": hash_files(paths), "sample_by": arguments.sample_by})

    @property
    def num_documents(self) -> int | None:
        """How many documents will be read, where that is known beforehand."""
        length = len(self.source) if isinstance(self.source, Dataset) else None
        limit = self.arguments.max_documents
        return limit if length is None else length if limit is None else min(limit, length)

    def chunks(
        self, size: int, wanted: Callable[[int], bool] = lambda index: True
    ) -> Iterator[tuple[int, list[Document]]]:
        """Consecutive documents, `size` at a time, numbered from 0; those not wanted are passed over unread."""
        start = 0
        rows = None if isinstance(self.source, Dataset) else iter(self.source)
        while (stop := self._stop(start, size)) > start:
            if wanted(start // size):
                batch = (
                    [self.source[i] for i in range(start, stop)] if rows is None else list(islice(rows, stop - start))
                )
                if not batch:
                    return
                yield start // size, [self._document(start + i, row) for i, row in enumerate(batch)]
            elif rows is not None and sum(1 for _ in islice(rows, stop - start)) == 0:
                return
            start = stop

    def _stop(self, start: int, size: int) -> int:
        known = self.num_documents
        return start + size if known is None else min(start + size, known)

    def _document(self, doc_id: int, row: dict[str, Any]) -> Document:
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
    if isinstance(source, Dataset) and len(source) == 0:
        raise BadInput(
            "dataset",
            arguments.dataset_name or arguments.train_file,
            "Give a source with rows in it.",
            why="it is empty",
        )
    features = source.features
    if not features:
        first = next(iter(source), None)
        if first is None:
            raise BadInput(
                "dataset",
                arguments.dataset_name or arguments.train_file,
                "Give a source with rows in it.",
                why="it is empty",
            )
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
    return Features({name: features[name] for name in arguments.keep_columns})
