"""One example: a passage, a prompt about it, and the answers that are accepted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from datasets import Features, List, Value

from ...errors import BadInput

# `answer` asks a question, `cloze` goes on with an unfinished sentence; the last three need no labels.
TASKS = ("answer", "cloze", "recall", "continuation", "reconstruction")
FEATURES = Features(
    {
        "row": Value("int64"),
        "doc_id": Value("int64"),
        "passage": Value("string"),
        "prompt": Value("string"),
        "answers": List(Value("string")),
        "task": Value("string"),
        "ends": Value("bool"),
    }
)


@dataclass(frozen=True)
class Example:
    """What a model reads and what it shall answer, as text.

    Args:
        doc_id: number of the document; equal passages have the same one.
        passage: what is compressed.
        prompt: what the model reads after the passage; may be empty.
        answers: all answers that are accepted; a model is trained on the first.
        task: one of `TASKS`, which decides the text around the prompt.
        ends: whether the answer is complete, so that a model shall stop after it.
    """

    doc_id: int
    passage: str
    prompt: str
    answers: tuple[str, ...]
    task: str = "answer"
    ends: bool = True

    def __post_init__(self) -> None:
        where = f"document {self.doc_id}"
        if not self.passage.strip():
            raise BadInput("passage", self.passage, "Leave the row out, or fill the column.", why=f"{where}: empty")
        if not self.answers or not all(answer.strip() for answer in self.answers):
            fix = "Leave the row out, or give it an answer; --skip_unanswerable leaves out such questions."
            raise BadInput("answers", list(self.answers), fix, why=f"{where}: an answer is missing or empty")
        if self.task not in TASKS:
            raise BadInput("task", self.task, f"Use one of {', '.join(TASKS)}.", why=where)

    def to_row(self) -> dict[str, Any]:
        return vars(self) | {"answers": list(self.answers)}
