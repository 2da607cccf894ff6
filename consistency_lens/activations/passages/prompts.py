"""The text between passage, prompt and answer, and the ids of all parts for one model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ...errors import BadInput
from .example import TASKS
from .tokens import PassageTokenizer

PARTS = ("passage_ids", "prompt_ids", "answer_ids")


@dataclass(frozen=True)
class PromptFormat:
    """What stands around a prompt, for each task; names of special tokens in it are read as such.

    A space at the end of a part goes in front of the next one, as models have seen words.

    Args:
        opening: stands between passage and prompt.
        anchor: stands between prompt and answer.
        max_answer_tokens: cut answers after so many tokens, their EOS included; None for whole answers.
        answer_choice: name of a model -> which of the accepted answers it is trained on, from 0; where there are
            fewer, the last. A model that is not named learns the first.
        preamble: stands in front of every passage, behind the BOS: a passage, or its code, is then inside a prompt.
    """

    opening: Mapping[str, str] = field(
        default_factory=lambda: {"answer": "\nQuestion: ", "cloze": " ", "recall": "\n\n", "reconstruction": "\n\n"}
    )
    anchor: Mapping[str, str] = field(default_factory=lambda: {"answer": "\nAnswer: "})
    max_answer_tokens: int | None = None
    answer_choice: Mapping[str, int] = field(default_factory=dict)
    preamble: str = ""

    def __post_init__(self) -> None:
        for name, given in (("opening", self.opening), ("anchor", self.anchor)):
            if unknown := sorted(set(given) - set(TASKS)):
                raise BadInput(name, unknown[0], f"Give a text for {', '.join(TASKS)}.", why="no such task")
        if self.max_answer_tokens is not None and self.max_answer_tokens < 1:
            raise BadInput("max_answer_tokens", self.max_answer_tokens, "Use 1 or more, or None.")
        for name, number in self.answer_choice.items():
            if number < 0:
                raise BadInput("answer_choice", {name: number}, "Count from 0.")

    def to_dict(self) -> dict[str, Any]:
        own = {name: dict(vars(self)[name]) for name in ("opening", "anchor", "answer_choice")}
        return asdict(self) | own

    def front_ids(self, model: PassageTokenizer) -> list[int]:
        """What stands in front of a passage: the BOS, if there is one, and the preamble."""
        return [*model.bos_ids, *(model.encode(self.preamble, special=True) if self.preamble else [])]

    def answer(self, row: Mapping[str, Any], name: str) -> str:
        """The accepted answer that a model is trained on."""
        accepted = row["answers"]
        return str(accepted[min(self.answer_choice.get(name, 0), len(accepted) - 1)])

    def ids(self, row: Mapping[str, Any], model: PassageTokenizer) -> dict[str, list[int]]:
        """`passage_ids`, `prompt_ids` and `answer_ids` of a row; the last with EOS where the answer ends."""
        task, space, prompt_ids = row["task"], "", []
        for text, ours in [
            (self.opening.get(task, ""), True),
            (row["prompt"], False),
            (self.anchor.get(task, ""), True),
        ]:
            text = space + text
            body = text.rstrip(" ")
            space = text[len(body) :]
            prompt_ids += model.encode_after(body, special=ours) if body else []
        if not model.bos_ids and not prompt_ids and space:
            prompt_ids, space = model.encode_after(space), ""  # something has to predict the first token
        if not model.bos_ids and not prompt_ids:
            fix = f"Give {task} an opening, or the row a prompt (--lead_words for continuations), or use bos='always'."
            why = f"{model.name} has no BOS: nothing stands before the answer that could predict its first token"
            raise BadInput("prompt", row["prompt"], fix, why)
        answer_ids = model.encode_after(space + self.answer(row, model.name))
        found = dict(zip(PARTS, (model.encode_passage(row["passage"]), prompt_ids, answer_ids), strict=True))
        for part in ("passage_ids", "answer_ids"):
            if not found[part]:
                fix = "Leave the row out: nothing of it reaches the model."
                raise BadInput(
                    part, row["passage"][:60], fix, why=f"the tokenizer of {model.name} makes no token of it"
                )
        return found | {"answer_ids": (answer_ids + [model.eos_id] * row["ends"])[: self.max_answer_tokens]}
