"""What users give as a text: a string, token ids, a chat, or what a tokenizer returns; as token ids of one model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import BadInput

if TYPE_CHECKING:
    from .frozen_lm import FrozenLM

FORMS = "Give a string, token ids, a chat (messages with role and content), what a tokenizer returns, or a list"


def token_ids(frozen: FrozenLM, given: Any) -> tuple[list[Tensor], bool]:
    """One vector of token ids per text, on the model's device, and whether a single text was given.

    The tokenizer adds its special tokens to strings, the chat template to chats, and nobody to ids that are given.
    """
    if isinstance(given, Mapping):
        return _of_batch(frozen, given)
    if isinstance(given, Tensor) and given.dim() == 2:
        return [_checked(frozen, row) for row in given], False
    if isinstance(given, str | Tensor) or _is_ids(given) or _is_chat(given):
        return [_one(frozen, given)], True
    if not isinstance(given, Sequence) or not given:
        raise BadInput("text", given, f"{FORMS} of these.")
    return [_one(frozen, each) for each in given], False


def _one(frozen: FrozenLM, given: Any) -> Tensor:
    if isinstance(given, str):
        return _checked(frozen, torch.as_tensor(frozen.tokenizer(given)["input_ids"], dtype=torch.long))
    if isinstance(given, Tensor) and given.dim() == 1:
        return _checked(frozen, given)
    if _is_ids(given):
        return _checked(frozen, torch.tensor(list(given)))
    if _is_chat(given):
        if frozen.tokenizer.chat_template is None:
            fix = "Give the text as a string, formatted as the model expects it."
            raise BadInput("text", given, fix, why=f"the tokenizer of {frozen.model_id} has no chat template")
        ids = frozen.tokenizer.apply_chat_template(list(given), tokenize=True, return_dict=True)["input_ids"]
        return _checked(frozen, torch.as_tensor(ids, dtype=torch.long))
    raise BadInput("text", given, f"{FORMS} of these.")


def _of_batch(frozen: FrozenLM, given: Mapping[str, Any]) -> tuple[list[Tensor], bool]:
    if "input_ids" not in given:
        raise BadInput("text", sorted(given), "Give what a tokenizer returns: a mapping with input_ids.")
    ids = given["input_ids"]
    if _is_ids(ids) or (isinstance(ids, Tensor) and ids.dim() == 1):
        return [_one(frozen, ids)], True
    masks = given.get("attention_mask", [None] * len(ids))
    rows = [torch.as_tensor(row, dtype=torch.long) for row in ids]
    kept = [
        row if mask is None else row[torch.as_tensor(mask).to(row.device).bool()]
        for row, mask in zip(rows, masks, strict=True)
    ]
    return [_checked(frozen, row) for row in kept], False


def _checked(frozen: FrozenLM, ids: Tensor) -> Tensor:
    size = frozen.model.config.get_text_config().vocab_size
    if ids.is_floating_point() or bool(((ids < 0) | (ids >= size)).any()):
        raise BadInput(
            "text", ids.tolist(), f"Give token ids of {frozen.model_id}: whole numbers from 0 to {size - 1}."
        )
    frozen.require_length(len(ids), "text")
    return ids.to(frozen.device)


def _is_ids(given: Any) -> bool:
    return isinstance(given, Sequence) and bool(given) and all(type(each) is int for each in given)


def _is_chat(given: Any) -> bool:
    return (
        isinstance(given, Sequence)
        and bool(given)
        and all(isinstance(each, Mapping) and {"role", "content"} <= each.keys() for each in given)
    )
