"""The files that SQuAD and HotpotQA are published as: one JSON text each, nested as no table can be."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import Dataset

from ...errors import BadInput
from ...frozen.loading.provenance import hash_files
from ..corpus import Corpus
from .arguments import PassageArguments
from .formats import columns_of


def corpus_of(given: PassageArguments) -> Corpus:
    """The corpus that the arguments name, with the columns of its format; published files are flattened first."""
    paths = [Path(path) for path in given.train_file or []]
    flat = {"squad": _squad_rows, "hotpotqa": _hotpotqa_rows}.get(given.passage_format)
    texts = [_whole_json(path) for path in paths] if flat else []
    if flat is None or not texts or any(text is None for text in texts):
        return Corpus.load(columns_of(given))
    if given.dataset_name:  # which a corpus refuses beside files
        return Corpus.load(columns_of(given))
    rows = [row for path, text in zip(paths, texts, strict=True) for row in _rows_of(path, text, flat)]
    settled = {"files": hash_files(paths) if len(paths) == 1 else [hash_files([path]) for path in paths]}
    name = ", ".join(path.name for path in paths)
    return Corpus(Dataset.from_list(rows), replace(columns_of(given), train_file=None), name, settled)


def _whole_json(path: Path) -> Any:
    """What the file holds as one JSON text; None where it is a line of JSON for each row, or no such file."""
    if path.suffix != ".json" or not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError:
        return None


def _rows_of(path: Path, text: Any, flat: Any) -> list[dict[str, Any]]:
    try:
        return list(flat(text))
    except (KeyError, TypeError, ValueError) as error:
        fix = "Give the file as it was published, or rows of context, question and answers."
        raise BadInput("train_file", str(path), fix, why=f"{type(error).__name__}: {error}") from error


def _squad_rows(text: Any) -> Iterator[dict[str, Any]]:
    if not isinstance(text, Mapping):
        yield from text
        return
    for article in text["data"]:
        for paragraph in article["paragraphs"]:
            for each in paragraph["qas"]:
                found = [answer["text"] for answer in each["answers"]]
                yield {"context": paragraph["context"], "question": each["question"], "answers": {"text": found}}


def _hotpotqa_rows(text: Any) -> Iterator[dict[str, Any]]:
    for row in text:
        context = row["context"]
        if not isinstance(context, Mapping):
            titles, sentences = zip(*context, strict=True)
            context = {"title": list(titles), "sentences": [list(each) for each in sentences]}
        yield {"question": row["question"], "context": context, "answer": row["answer"]}
