"""From documents to rows of passages: each passage in one split, equal passages under one number."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa

from ...errors import BadInput
from ..corpus import Corpus, Document
from ..documents import SPLITS
from ..statistics import SKETCH_SIZE, count_near_duplicates, sketch
from .example import FEATURES, Example
from .sinks import Sink
from .units import words_of

ExamplesOf = Callable[[Document], Iterable[Example]]
SplitOf = Callable[[str], str]
_CHUNK = 512  # documents that are turned into Arrow together


@dataclass
class Build:
    """Rows while they are made; documents come in the order of their source.

    Args:
        by_document: whether the text of the document decides the split, or that of the passage.
        sink: takes the rows.
        must_differ: refuse a passage that stands in two splits, instead of leaving it out of the second.
    """

    by_document: bool
    sink: Sink
    must_differ: bool = False
    left_out: int = 0  # documents that gave no example
    repeated: int = 0  # examples whose passage stands in another split already
    _rows: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    _documents: dict[str, set[int]] = field(default_factory=lambda: {split: set() for split in SPLITS})
    _seen: dict[bytes, tuple[str, int]] = field(default_factory=dict)  # passage -> its split and number
    _sketches: dict[int, tuple[np.ndarray, int]] = field(default_factory=dict)  # by number of the document

    def read(self, corpus: Corpus, examples_of: ExamplesOf, split_of: SplitOf, offset: int = 0) -> int:
        """Take all examples of a corpus whose documents are numbered from `offset`; returns the next number."""
        following = offset
        for _, documents in corpus.chunks(_CHUNK):
            found: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
            for document in documents:
                numbered = document._replace(doc_id=document.doc_id + offset)
                following = numbered.doc_id + 1
                for split, example in self._examples(numbered, examples_of, split_of):
                    found[split].append(example.to_row() | {"row": self._rows[split]})
                    self._rows[split] += 1
                    self._documents[split].add(example.doc_id)
            for split, rows in found.items():
                if rows:
                    columns = {name: [row[name] for row in rows] for name in FEATURES}
                    self.sink.add(split, pa.table(columns, schema=FEATURES.arrow_schema))
        return following

    def _examples(
        self, document: Document, examples_of: ExamplesOf, split_of: SplitOf
    ) -> Iterator[tuple[str, Example]]:
        there_are, of_document = False, split_of(document.text) if self.by_document else ""
        for example in examples_of(document):
            there_are = True
            decides = document.text if self.by_document else example.passage
            split, number = of_document or split_of(decides), example.doc_id
            first_split, first_number = self._seen.setdefault(_key(example.passage), (split, number))
            if split != first_split:
                if self.must_differ:
                    fix = "Leave it in one split, or give one Dataset, which is split by passage."
                    why = f"a passage of {split} stands in {first_split}, too"
                    raise BadInput("dataset", example.passage[:80], fix, why)
                self.repeated += 1
                continue
            number = number if self.by_document else first_number
            if number not in self._sketches:
                self._sketches[number] = sketch(_hashed_words(decides)), SPLITS.index(split)
            yield split, replace(example, doc_id=number)
        self.left_out += not there_are

    def facts(self) -> dict[str, Any]:
        """What a card tells of the rows; raise where there is nothing to train on."""
        if not self._rows["train"]:
            fix = "Use longer or more documents, smaller fractions, or fewer --passage_words."
            raise BadInput("passages", 0, fix, why="there is no example to train on")
        own = list(self._sketches.values())
        sketches = np.array([each for each, _ in own], np.uint64).reshape(-1, SKETCH_SIZE)
        where = np.array([split for _, split in own], np.int8)
        return {
            "splits": {
                split: {"documents": len(self._documents[split]), "rows": rows}
                for split, rows in self._rows.items()
                if rows
            },
            "documents_left_out": self.left_out,
            "repeated_in_another_split": self.repeated,
            "near_duplicates": count_near_duplicates(sketches, where, SPLITS),
        }


def _key(passage: str) -> bytes:
    """The same for passages that differ in case and whitespace alone, as for `split_of`."""
    words = " ".join(passage.lower().split())
    return blake2b(words.encode(errors="surrogatepass"), digest_size=16).digest()


def _hashed_words(text: str) -> np.ndarray:
    words = [zlib.crc32(word.lower().encode(errors="surrogatepass")) for word in words_of(text)]
    return np.array(words or [0], np.int64)
