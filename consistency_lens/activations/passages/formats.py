"""Rows of known data sets as examples: SQuAD, HotpotQA, BenchPress, and columns by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from ...errors import BadInput
from ..corpus import CorpusArguments, Document
from .arguments import PassageArguments
from .example import Example
from .tasks import examples_of_text


def columns_of(given: PassageArguments) -> CorpusArguments:
    """The arguments of the corpus, with the columns that the format needs."""
    text, kept = {
        "text": (given.text_column, []),
        "squad": ("context", ["question", "answers"]),
        "hotpotqa": ("question", ["context", "answer"]),
        "benchpress": ("context", ["question", "answers"]),
        "columns": (given.passage_column, [given.prompt_column, given.answer_column]),
    }[given.passage_format]
    own = {each.name: vars(given)[each.name] for each in fields(CorpusArguments)}
    return CorpusArguments(**own | {"text_column": text, "keep_columns": kept})


def examples_of(document: Document, given: PassageArguments) -> Iterator[Example]:
    """All examples of one row of the source; document numbers are those of the source."""
    if given.passage_format == "text":
        yield from examples_of_text(document, given)
        return
    row = document.kept
    if given.passage_format in ("squad", "benchpress"):  # answers as {"text": [...]}, or as a list
        passage, prompt, found = document.text, row["question"], answers_of(row["answers"], document.doc_id)
    elif given.passage_format == "hotpotqa":
        passage, prompt = paragraphs_of(row["context"], document.doc_id), document.text
        found = answers_of(row["answer"], document.doc_id)
    else:
        passage, prompt = document.text, row[given.prompt_column]
        found = answers_of(row[given.answer_column], document.doc_id)
    if found or not given.skip_unanswerable:
        yield Example(document.doc_id, passage, text_of(prompt, "prompt", document.doc_id), found)


def answers_of(value: Any, doc_id: int) -> tuple[str, ...]:
    """Accepted answers, each once, from a string, a list of strings, or SQuAD's `{"text": [...]}`."""
    if isinstance(value, Mapping):
        if "text" not in value:
            fix = "Give a string, a list of strings, or a dict whose text is such a list."
            raise BadInput("answers", sorted(value), fix, why=f"document {doc_id} has no text among its answers")
        value = value["text"]
    several = list(value) if isinstance(value, (list, tuple)) else [value]
    found = [text_of(answer, "answers", doc_id) for answer in several]
    return tuple(dict.fromkeys(answer for answer in found if answer.strip()))


def paragraphs_of(context: Any, doc_id: int) -> str:
    """A line for each title of HotpotQA's context, with its sentences."""
    if isinstance(context, Mapping) and {"title", "sentences"} <= set(context):
        pairs = list(zip(context["title"], context["sentences"], strict=True))
    else:
        fix = "Use the layout of the Hub's hotpot_qa: context is a dict of title and sentences."
        raise BadInput("context", type(context).__name__, fix, why=f"document {doc_id}")
    return "\n".join(f"{title}: {''.join(sentences).strip()}" for title, sentences in pairs)


def text_of(value: Any, field: str, doc_id: int) -> str:
    if value is not None and not isinstance(value, str):
        raise BadInput(field, value, "Give strings.", why=f"document {doc_id} holds a {type(value).__name__}")
    return value or ""
