"""All rows tokenised once for several models, with the passages that fit; what is too long is refused or cut."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset, Features, List, Value

from ...answers import contains
from ...errors import BadInput
from .collator import column_of
from .prompts import PARTS, PromptFormat
from .tokens import PassageTokenizer
from .units import between, ends_of

_ROWS = 256  # that are tokenised together


def tokenised(
    rows: Dataset,
    models: Mapping[str, PassageTokenizer],
    prompts: PromptFormat,
    max_passage_tokens: int | None,
    as_text: bool,
    origin: Mapping[str, Any],
) -> Dataset:
    """The rows with columns of ids for each model, and `cut`: whether a window of the passage stands for it.

    Args:
        rows: of one split.
        models: name -> tokenizer.
        prompts: the text around a prompt.
        max_passage_tokens: cut passages to a window of so many tokens of every model.
        as_text: whether the models read passages as text, too, so that these have to fit.
        origin: what settles the rows, so that `datasets` finds in its cache what was tokenised before.
    """
    if max_passage_tokens is not None and max_passage_tokens < 1:
        raise BadInput("max_passage_tokens", max_passage_tokens, "Use 1 or more, or None.")
    columns = {column_of(name, part): List(Value("int32")) for name in models for part in PARTS}
    if clash := sorted(set(columns) & set(rows.column_names)):
        fix = "Name the models otherwise, or start from the passages before they were tokenised."
        raise BadInput("models", clash[0], fix, why="the rows hold such a column already")

    def own(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {name: [] for name in ("passage", "cut", *columns)}
        for values in zip(*batch.values(), strict=True):
            row = dict(zip(batch, values, strict=True))
            passage = _fitting(row, models, max_passage_tokens)
            found["cut"].append(passage != row["passage"])
            found["passage"].append(passage)
            for name, model in models.items():
                ids = prompts.ids(row | {"passage": passage}, model)
                _require_room(row, ids, model, as_text, len(prompts.front_ids(model)))
                for part in PARTS:
                    found[column_of(name, part)].append(ids[part])
        return found

    settled: list[Any] = [origin, {name: model.to_dict() for name, model in models.items()}, prompts.to_dict()]
    settled += [{name: model.max_length for name, model in models.items()}, max_passage_tokens, as_text]
    features = Features({**rows.features, **columns, "cut": Value("bool")})
    name = hashlib.sha256(json.dumps(settled, sort_keys=True, default=str).encode()).hexdigest()[:32]
    return rows.map(own, batched=True, batch_size=_ROWS, features=features, new_fingerprint=name, desc="tokenising")


def count_cuts(splits: Iterable[Dataset]) -> tuple[int, int]:
    """How many passages were cut, and how many of them lost all accepted answers."""
    cut, lost = 0, 0
    for rows in splits:
        some = rows.select(np.flatnonzero(rows.with_format("numpy")["cut"][:]))
        cut += len(some)
        lost += sum(not holds_answer(row["passage"], row["answers"]) for row in some)
    return cut, lost


def _require_room(
    row: Mapping[str, Any], ids: Mapping[str, Sequence[int]], model: PassageTokenizer, as_text: bool, front: int
) -> None:
    read = {part: value for part, value in ids.items() if as_text or part != "passage_ids"}
    length = front + sum(map(len, read.values()))
    if model.max_length is not None and length > model.max_length:
        labelled = row["task"] in ("answer", "cloze")
        fix = "Cut passages with max_passage_tokens." if labelled else "Make them of fewer --passage_words."
        if not as_text:
            fix = "Leave out the row, or cut answers with PromptFormat.max_answer_tokens."
        counts = ", ".join(f"{len(value)} of {part.removesuffix('_ids')}" for part, value in read.items())
        why = f"document {row['doc_id']} ({row['task']}) has {length} tokens for {model.name} ({counts})"
        raise BadInput("passage", f"{row['passage'][:60]}...", f"It takes at most {model.max_length}. {fix}", why)


def _fitting(row: Mapping[str, Any], models: Mapping[str, PassageTokenizer], limit: int | None) -> str:
    """The passage, or the first of its windows that holds an accepted answer, or else the first.

    Windows follow each other and end with words, so that all models read the same text.
    """
    passage: str = row["passage"]
    if limit is None or _longest(passage, models) <= limit:
        return passage
    if row["task"] not in ("answer", "cloze"):
        fix = "Make passages of fewer --passage_words: the prompts and answers of this task depend on the whole one."
        raise BadInput("max_passage_tokens", limit, fix, why=f"document {row['doc_id']} has a longer passage")
    first, ends, windows = 0, ends_of(passage), []
    while first < len(ends):
        last = _window_end(passage, ends, first, models, limit)
        windows.append(between(passage, ends, first, last).lstrip())
        first = last
    return max(windows, key=lambda window: holds_answer(window, row["answers"]))


def holds_answer(passage: str, accepted: Sequence[str]) -> float:
    """1 where an accepted answer stands in the passage as whole words, 1/2 where as letters alone, else 0.

    Scripts without spaces have their words inside longer runs of letters.
    """
    return contains(passage, accepted) or 0.5 * any(answer.strip() in passage for answer in accepted)


def _window_end(
    passage: str, ends: Sequence[int], first: int, models: Mapping[str, PassageTokenizer], limit: int
) -> int:
    """The last word, exclusive, of the longest window that every model reads in so many tokens."""
    low, high = first, min(len(ends), first + limit)  # a word is a token at least
    while low < high:
        middle = (low + high + 1) // 2
        if _longest(between(passage, ends, first, middle).lstrip(), models) <= limit:
            low = middle
        else:
            high = middle - 1
    if low == first:
        word = between(passage, ends, first, first + 1).strip()
        raise BadInput("max_passage_tokens", limit, "Use more.", why=f"the word {word!r} has more tokens")
    return low


def _longest(text: str, models: Mapping[str, PassageTokenizer]) -> int:
    return max(len(model.encode(text)) for model in models.values())
