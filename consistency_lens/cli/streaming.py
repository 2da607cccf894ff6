"""Rows to train on that are read from the corpus meanwhile; what is stored is held out and says by which rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..errors import BadInput
from ..frozen import FrozenLM
from .opening import open_corpus
from .parsing.request import Request

# What tells the corpus of a stream from that of the stored rows, which may be a part of it -> its field.
_FIELDS = {"corpus": "dataset_name", "config": "dataset_config", "split": "split", "text_column": "text_column"}


def require_streamable(request: Request) -> None:
    """What can be wrong with a stream before anything is read."""
    if not request.run.stream_activations:
        return
    if request.run.activations is None:
        fix = "Extract a few thousand documents first, and name them with --activations."
        raise BadInput("activations", None, fix, why="held-out rows and the mean activation are not streamed")
    if request.values["max_steps"] <= 0:
        fix = "Say how many steps to train: a stream has no length."
        raise BadInput("max_steps", request.values["max_steps"], fix)
    if request.run.stream_buffer < 1:
        raise BadInput("stream_buffer", request.run.stream_buffer, "Use 1 for the order of the corpus, or more.")


def streamed(request: Request, data: Any, frozen: FrozenLM, within: Callable[[Callable[[], Any]], Any]) -> Any:
    """The stored rows with the training split of the whole corpus, by the same rules, in the place of theirs. A
    document's split hangs on its words alone: none that is held out is ever trained on."""
    corpus, stored = open_corpus(request), data.metadata["corpus"]
    for name, field in _FIELDS.items():
        value = corpus.identity.get(name)
        if name in stored and value != stored[name]:
            fix = "Name the corpus that the stored rows were made of."
            raise BadInput(field, value, fix, why=f"{name} of the stored rows is {stored[name]}")
    rules = {**data.metadata["rules"], "sites": list(data.sites)}
    arguments = replace(request.extraction, **rules)
    extraction = request.options.run.extraction(corpus, frozen.tokenizer, frozen.model.config, arguments)
    return request.family.streamed(extraction, data, frozen, within, request.run.stream_buffer)
