"""The columns of rows for people: one vocabulary for `explain`, the sample table, the card, and the explorer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Predictions = Sequence[tuple[str, float]]  # the likeliest next tokens with their probabilities


@dataclass(frozen=True)
class Column:
    """A column has a heading in tables for people, and a definition."""

    heading: str
    definition: str


COLUMNS = {
    "step": Column("step", "step of the training at which the row was made"),
    "row": Column("row", "number of the row among those that a training watches"),
    "doc_id": Column("document", "document that the context is from"),
    "position": Column("#", "position of the token in its text, counted from 0"),
    "site": Column("site", "site at which the lens reads, of one that reads any of several"),
    "token": Column("token", "token at which the lens reads"),
    "context": Column("context", "what the model has read; brackets mark the token at which the lens reads"),
    "explanation": Column("explanation", "the code in words"),
    "kl": Column("KL", "KL in nats from the next-token distribution of the untouched model to that of the edited one"),
    "kl_of_baseline": Column("KL of the baseline", "the same with the mean restored: what there was to lose"),
    "cosine": Column("cosine", "cosine between the activation and its reconstruction"),
    "before": Column("predicts", "likeliest next tokens of the untouched model, each with its probability"),
    "after": Column("with the edits", "likeliest next tokens with the lens's edits in place"),
    "continuation_before": Column("continues", "greedy continuation of the untouched model"),
    "continuation_after": Column("continues with the edits", "greedy continuation with the edits in place"),
}
PREDICTIONS = ("before", "after")


def heading(name: str) -> str:
    """The heading of a column; what a family adds is headed by its own name."""
    return COLUMNS[name].heading if name in COLUMNS else name


def shown(predictions: Predictions, count: int = 2) -> str:
    """The likeliest tokens with their probabilities, in one line."""
    return ", ".join(f"{token.strip() or repr(token)} {chance:.2f}" for token, chance in predictions[:count])


def stored(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as files hold it: a prediction is a record of `token` and `probability`."""
    pairs = {side: [{"token": t, "probability": p} for t, p in row[side]] for side in PREDICTIONS if side in row}
    return {**row, **pairs}
