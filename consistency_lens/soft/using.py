"""A wire in use: texts to codes, and questions to the models that read them.

What stands around a prompt is what the configuration says, as in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..activations.passages import context_of
from ..errors import BadInput
from ..frozen import FrozenModels, Generated
from .code import LatentCode
from .data import collator_of

if TYPE_CHECKING:
    from .modeling import LatentWire


def compress_texts(lens: LatentWire, texts: Sequence[str], ratio: float | None = None) -> LatentCode:
    """The codes of some texts.

    Args:
        lens: with its models at hand.
        texts: at least one.
        ratio: tokens for each vector, in the place of the configuration's rate.
    """
    with torch.no_grad():
        return lens.encode(_batch(lens, texts, ["?"] * len(texts), "answer"), ratio)


def answer(
    lens: LatentWire, code: LatentCode, prompts: Sequence[str], receiver: str, task: str = "answer", **settings: Any
) -> list[str]:
    """What a model answers to a prompt about each code, greedily unless the settings say otherwise.

    Args:
        lens: with its models at hand.
        code: of one text for each prompt.
        prompts: one for each code.
        receiver: the model that reads.
        task: of which the prompts are; it decides the text around them.
        settings: of `FrozenLM.generate`: `max_new_tokens=16`.
    """
    if len(prompts) != len(code):
        raise BadInput("prompts", f"{len(prompts)} of them", f"Give one for each of the {len(code)} codes.")
    lens.receiver(receiver)
    batch = _batch(lens, ["."] * len(prompts), prompts, task)
    assert lens.models is not None
    model = lens.models[receiver]
    with torch.no_grad():
        edit = lens.soft_tokens(code, batch, receiver)
        made: Generated = model.generate(context_of(batch["tokens"][receiver]), edit, **settings)
    return made.texts(model.tokenizer)


def prompt_batch(lens: LatentWire, prompts: Sequence[str], task: str, receiver: str) -> dict[str, Any]:
    """Prompts as a batch, for one model."""
    if lens.models is None or receiver not in lens.models:
        fix = "Load the lens with its models: AutoLens.from_pretrained(lens)."
        raise BadInput("receiver", receiver, fix, why="the model is not at hand")
    rows = [{"passage": ".", "prompt": prompt, "answers": ["."], "task": task, "ends": True} for prompt in prompts]
    return collator_of(lens.config, FrozenModels([lens.models[receiver]]))(rows)


def _batch(lens: LatentWire, passages: Sequence[str], prompts: Sequence[str], task: str) -> dict[str, Any]:
    if lens.models is None:
        raise BadInput("subject", None, "Load the lens with its models: AutoLens.from_pretrained(lens).")
    if not passages:
        raise BadInput("texts", [], "Give at least one text.")
    rows = [
        {"passage": passage, "prompt": prompt, "answers": ["."], "task": task, "ends": True}
        for passage, prompt in zip(passages, prompts, strict=True)
    ]
    return collator_of(lens.config, lens.models)(rows)
