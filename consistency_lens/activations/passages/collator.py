"""Rows of passages to a batch of tensors for each model.

Shapes: B rows, S tokens of the longest sequence, K tokens of the longest answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ...errors import BadInput
from .prompts import PARTS, PromptFormat
from .tokens import PassageTokenizer

TEXTS = ("passage", "prompt", "answers", "task")


class PassageCollator:
    """Makes batches of examples, tokenised for each model.

    The batch: `doc_id`, `row` `[B]`; `passage`, `prompt`, `answers`, `task` as lists; and `tokens`, which holds for
    each model by name:

    - `passage_ids`, `passage_mask` `[B, P]`: the passage alone, padded on the right, without BOS.
    - `answer_ids`, `answer_mask` `[B, K]`: the answer with its EOS, padded on the right.
    - `full`: `input_ids`, `attention_mask` `[B, S]` of BOS, preamble, passage, prompt and answer.
    - `bare`: the same without the passage: what a code is put into, behind its first `front` tokens: BOS and preamble.
    - `bos`: how many of these are the BOS, 0 or 1.

    In `full` and `bare` all answers begin in the same column: padding stands left of what a model reads, and right of
    what it answers. The last token of the longest answer is left out. So the last K columns are those that predict
    `answer_ids`, logits are taken of no others (`FrozenLM.logits(batch, edits, keep=K)`), and no label is shifted.
    `context_of` gives the columns before the answer, padded on the left, to generate from.

    Args:
        models: name -> tokenizer.
        prompts: the text around a prompt.
    """

    def __init__(self, models: Mapping[str, PassageTokenizer], prompts: PromptFormat | None = None) -> None:
        self.models, self.prompts = dict(models), prompts or PromptFormat()

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        if not rows:
            raise BadInput("rows", [], "Give at least one row.")
        numbers = {
            name: torch.tensor([int(row[name]) for row in rows]) for name in ("doc_id", "row") if name in rows[0]
        }
        texts = {name: [row[name] for row in rows] for name in TEXTS}
        return numbers | texts | {"tokens": {name: self._tokens(rows, model) for name, model in self.models.items()}}

    def _tokens(self, rows: Sequence[Mapping[str, Any]], model: PassageTokenizer) -> dict[str, Any]:
        found = [stored_ids(row, model.name) or self.prompts.ids(row, model) for row in rows]
        passages, prompts, answers = ([list(each[part]) for each in found] for part in PARTS)
        front, pad = self.prompts.front_ids(model), model.pad_id
        passage_ids, passage_mask = padded(passages, pad, left=False)
        answer_ids, answer_mask = padded(answers, pad, left=False)
        contexts = {
            "full": [front + passage + prompt for passage, prompt in zip(passages, prompts, strict=True)],
            "bare": [front + prompt for prompt in prompts],
        }
        sequences = {}
        for name, context in contexts.items():
            before, before_mask = padded(context, pad, left=True)
            ids = torch.cat([before, answer_ids[:, :-1]], dim=1)
            mask = torch.cat([before_mask, answer_mask[:, :-1]], dim=1)
            sequences[name] = {"input_ids": ids, "attention_mask": mask}
        own = {"passage_ids": passage_ids, "passage_mask": passage_mask}
        own |= {"answer_ids": answer_ids, "answer_mask": answer_mask}
        return own | sequences | {"bos": len(model.bos_ids), "front": len(front)}


def context_of(tokens: Mapping[str, Any], sequence: str = "bare") -> dict[str, torch.Tensor]:
    """What stands before the answers in `full` or `bare`, padded on the left: generation goes on from there."""
    width = tokens[sequence]["input_ids"].shape[1] - tokens["answer_ids"].shape[1] + 1
    return {name: value[:, :width] for name, value in tokens[sequence].items()}


def column_of(name: str, part: str) -> str:
    """The column that holds a part's ids for a model."""
    return f"{name}.{part}"


def stored_ids(row: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """The ids that `Passages.tokenised` put into a row, if it did."""
    columns = {part: column_of(name, part) for part in PARTS}
    return {part: row[column] for part, column in columns.items()} if columns[PARTS[0]] in row else None


def padded(lists: Sequence[Sequence[int]], pad_id: int, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask `[B, S]`. The mask goes by length, so that a PAD that is also the EOS costs no EOS."""
    width = max(len(ids) for ids in lists)
    values = torch.full((len(lists), width), pad_id)
    mask = torch.zeros(len(lists), width, dtype=torch.long)
    for i, ids in enumerate(lists):
        where = slice(width - len(ids), None) if left else slice(len(ids))
        values[i, where] = torch.as_tensor(ids, dtype=torch.long)
        mask[i, where] = 1
    return values, mask
