"""A code for other servers: `prompt_embeds` as vLLM takes them, `input_embeds` as SGLang does.

What both document, and what is built here:

- vLLM with `--enable-prompt-embeds`. Chat Completions: a part `{"type": "prompt_embeds", "data": ...}` of a message's
  content, beside parts of text; the data is the base64 of a tensor `[tokens, hidden size]` as `torch.save` writes it,
  and the server puts the chat template around it. Completions: a field `prompt_embeds` with the whole prompt, BOS too.
- SGLang with `--disable-radix-cache`, `/generate`: `input_embeds`, the whole prompt as lists of numbers, in the place
  of `text` and `input_ids`.

Soft tokens are what the model's embedding module gives out in transformers, Gemma's factor included.

Shapes: N soft tokens, S tokens of the whole prompt, d hidden size of the receiver.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...activations.passages import context_of
from ...errors import BadInput
from ..bytes.wire import Wire
from ..data import prompts_of
from .answering import model_at_hand, one_text, prepared, receiver_named

if TYPE_CHECKING:
    from ..modeling import LatentWire

Given = bytes | Wire | Sequence[Wire]


def soft_prompt(lens: LatentWire, wire: Given, receiver: str | None = None, task: str = "answer") -> Tensor:
    """The code alone as soft tokens of a model, `[N, d]` in the model's dtype, on the CPU.

    Args:
        lens: with the model at hand.
        wire: of one text.
        receiver: the model; default the only one.
        task: of the prompt that follows.
    """
    model, edit, _ = prepared(lens, [one_text(wire)], ["?"], receiver, task)
    return edit.tensor[0].to(model.dtype).cpu()


@torch.no_grad()
def whole_prompt(
    lens: LatentWire,
    wire: Given,
    question: str,
    receiver: str | None = None,
    task: str = "answer",
    preamble: str | None = None,
) -> Tensor:
    """All that the model reads before it answers, `[S, d]`: BOS, preamble, code, and the question with the text around
    it."""
    model, edit, batch = prepared(lens, [one_text(wire)], [question], receiver, task, preamble)
    ids = context_of(batch["tokens"][model.name])["input_ids"][0].to(model.device)
    own, front = model.model.get_input_embeddings()(ids), batch["tokens"][model.name]["front"]
    return torch.cat([own[:front], edit.tensor[0].to(own), own[front:]]).cpu()


def encoded(embeddings: Tensor) -> str:
    """A tensor as the base64 of what `torch.save` writes."""
    written = io.BytesIO()
    torch.save(embeddings.contiguous().clone(), written)
    return base64.b64encode(written.getvalue()).decode("ascii")


def vllm_chat(
    lens: LatentWire,
    wire: Given,
    question: str,
    receiver: str | None = None,
    task: str = "answer",
    max_tokens: int = 32,
    preamble: str | None = None,
    **more: Any,
) -> dict[str, Any]:
    """The body of a request to vLLM's `/v1/chat/completions`: the code, in front of it the preamble and behind
    it the question as text.

    Args:
        lens: with the model at hand.
        wire: of one text.
        question: about it.
        receiver: the model; default the only one.
        task: of the question.
        max_tokens: of the answer.
        preamble: text in front of the code, in the place of the configuration's.
        more: other fields of the request.
    """
    model = model_at_hand(lens, receiver_named(lens.config.names, receiver))
    if model.tokenizer.chat_template is None:
        fix = "Use vllm_completion, which needs none, or set the tokenizer's chat_template."
        raise BadInput("receiver", model.name, fix, why=f"the tokenizer of {model.model_id} has no chat template")
    prompts = prompts_of(lens.config)
    before = prompts.preamble if preamble is None else preamble
    text = prompts.opening.get(task, "") + question
    part = {"type": "prompt_embeds", "data": encoded(soft_prompt(lens, wire, receiver, task))}
    content = [part, {"type": "text", "text": text}]
    if before:
        content.insert(0, {"type": "text", "text": before})
    return {"model": model.model_id, "messages": [{"role": "user", "content": content}]} | _greedy(max_tokens) | more


def vllm_completion(
    lens: LatentWire,
    wire: Given,
    question: str,
    receiver: str | None = None,
    task: str = "answer",
    max_tokens: int = 32,
    preamble: str | None = None,
    **more: Any,
) -> dict[str, Any]:
    """The body of a request to vLLM's `/v1/completions`. The model reads what it was trained with; arguments as those
    of `vllm_chat`."""
    model = model_at_hand(lens, receiver_named(lens.config.names, receiver))
    prompt = encoded(whole_prompt(lens, wire, question, receiver, task, preamble))
    return {"model": model.model_id, "prompt_embeds": prompt} | _greedy(max_tokens) | more


def sglang_generate(
    lens: LatentWire,
    wire: Given,
    question: str,
    receiver: str | None = None,
    task: str = "answer",
    max_tokens: int = 32,
    preamble: str | None = None,
    **more: Any,
) -> dict[str, Any]:
    """The body of a request to SGLang's `/generate`; arguments as those of `vllm_chat`, `more` for its sampling."""
    prompt = whole_prompt(lens, wire, question, receiver, task, preamble).float().tolist()
    return {"input_embeds": prompt, "sampling_params": {"temperature": 0, "max_new_tokens": max_tokens} | more}


def _greedy(max_tokens: int) -> dict[str, Any]:
    return {"max_tokens": max_tokens, "temperature": 0}
