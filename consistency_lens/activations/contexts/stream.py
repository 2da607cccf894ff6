"""The rows of an extraction, computed while they are consumed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from typing import Any, NoReturn

from datasets import Features

from ...errors import BadInput
from ...frozen import FrozenLM
from ..chunked import ChunkedExtraction
from ..precision import fits_float16, require_finite
from .table import table_of


class RowStream:
    """Called, it yields the rows of one split, chunk by chunk as they would be stored.

    `datasets` pickles what it generates from, to have a hash of it. It sees the request alone: the weights would come
    along otherwise, byte by byte.

    Args:
        within: does what it is given; where the model's weights are spread over processes, inside a call of what
            holds them.
    """

    def __init__(
        self,
        extraction: ChunkedExtraction,
        frozen: FrozenLM,
        split: str,
        features: Features,
        within: Callable[[Callable[[], Any]], Any],
    ) -> None:
        self.extraction, self.frozen, self.split, self.features = extraction, frozen, split, features
        self.within = within

    def __call__(self) -> Iterator[dict[str, Any]]:
        given, rules = self.extraction.arguments, self.extraction.rules
        reader = self.extraction.reader(self.frozen)
        half = self.features[self.extraction.sites[0]].feature.dtype == "float16"
        for _, documents in self.extraction.corpus.chunks(given.documents_per_shard):
            if prepared := self.extraction.prepare(documents)[self.split]:
                vectors = self.within(partial(reader.read, prepared))
                require_finite(prepared, vectors, self.frozen)
                if half and not all(fits_float16(values) for values in vectors.values()):
                    raise BadInput("dtype", "float16", "Use float32.", why="an activation does not fit")
                yield from table_of(prepared, vectors, self.features, rules.continuation_length).to_pylist()

    def __reduce__(self) -> tuple[Any, ...]:
        request = {"model": self.frozen.model_id, "sites": self.extraction.sites, "split": self.split}
        return _refuse, (json.dumps(request | self.extraction.corpus.identity | asdict(self.extraction.rules)),)

    def __deepcopy__(self, memo: dict[int, Any]) -> RowStream:
        return self


def _refuse(request: str) -> NoReturn:
    raise BadInput(
        "num_workers", "1 or more", "Use 0: the frozen model stays in this process.", why=f"stream of {request}"
    )
