"""Requests for other servers, against what those document of them, and read by a model as its server would."""

from __future__ import annotations

import base64
import io
import json
from copy import copy
from typing import Any

import pytest
import torch
from tiny import shared_lm, tiny_model
from torch import Tensor
from wire_runs import NAMES, wire_lens, wire_models

from consistency_lens.errors import BadInput
from consistency_lens.frozen import FrozenLM, FrozenModels
from consistency_lens.soft.modeling import LatentWire
from consistency_lens.soft.serving.exports import (
    sglang_generate,
    soft_prompt,
    vllm_chat,
    vllm_completion,
    whole_prompt,
)

TEXT = " ".join(f"w{i}" for i in range(12))
CHAT = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def decoded(data: str, width: int) -> Tensor:
    """As vLLM documents and reads it: strict base64 of a saved tensor of floats, `[tokens, hidden size]`."""
    tensor = torch.load(io.BytesIO(base64.b64decode(data, validate=True)), weights_only=True)
    assert isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.layout == torch.strided
    assert tensor.dim() == 2 and tensor.shape[1] == width
    return tensor


def goes_on(model: FrozenLM, embeddings: Tensor, count: int) -> str:
    """What a server makes of a whole prompt, with transformers alone."""
    embedded, ids = embeddings[None].to(model.dtype), []
    for _ in range(count):
        ids.append(model.model(inputs_embeds=embedded).logits[0, -1].argmax())
        embedded = torch.cat([embedded, model.model.get_input_embeddings()(ids[-1][None, None])], 1)
    return model.tokenizer.decode(ids, skip_special_tokens=True).strip()


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_whole_prompt_is_read_as_our_own_model_reads_it(name: str) -> None:
    """Gemma, whose embeddings have a factor, and a model without BOS are among them."""
    lens, model = wire_lens(ratio=2.0), wire_models()[name]
    data = lens.to_bytes(TEXT)
    own = lens.answer(data, "w90", name, max_new_tokens=3, min_new_tokens=3)
    body = json.loads(json.dumps(vllm_completion(lens, data, "w90", name, max_tokens=3)))
    assert set(body) == {"model", "prompt_embeds", "max_tokens", "temperature"} and body["temperature"] == 0
    assert goes_on(model, decoded(body["prompt_embeds"], model.hidden_size), 3) == own
    body = json.loads(json.dumps(sglang_generate(lens, data, "w90", name, max_tokens=3, stop=["\n"])))
    assert set(body) == {"input_embeds", "sampling_params"}
    assert body["sampling_params"] == {"temperature": 0, "max_new_tokens": 3, "stop": ["\n"]}
    rows = body["input_embeds"]
    assert all(len(row) == model.hidden_size and all(type(x) is float for x in row) for row in rows)
    assert goes_on(model, torch.tensor(rows), 3) == own


def with_template(name: str = "words") -> LatentWire:
    lens = wire_lens(ratio=2.0)
    models = []
    for model in wire_models().values():
        tokenizer = copy(model.tokenizer)
        tokenizer.chat_template = CHAT if model.name == name else None
        models.append(FrozenLM(model.model, tokenizer, model_id=model.model_id, name=model.name))
    lens.models = FrozenModels(models)
    return lens


def test_in_a_chat_the_code_stands_beside_the_question() -> None:
    lens = with_template()
    data = lens.to_bytes(TEXT)
    body = json.loads(json.dumps(vllm_chat(lens, data, "w90", "words", max_tokens=5, logprobs=True)))
    assert set(body) == {"model", "messages", "max_tokens", "temperature", "logprobs"} and body["max_tokens"] == 5
    (message,) = body["messages"]
    assert message["role"] == "user"
    code, text = message["content"]
    assert set(code) == {"type", "data"} and code["type"] == "prompt_embeds"
    assert text == {"type": "text", "text": "\nQuestion: w90"}
    tensor = decoded(code["data"], 32)
    assert tensor.shape[0] == 6, "the code and no BOS: the server's template has one"
    assert torch.equal(tensor, soft_prompt(lens, data, "words"))
    (message,) = vllm_chat(lens, data, "w90", "words", preamble="w7 w8")["messages"]
    assert message["content"] == [{"type": "text", "text": "w7 w8"}, code, text], "text, code, text"


@torch.no_grad()
def test_text_stands_in_front_of_the_code_and_behind_it() -> None:
    lens, model = wire_lens(ratio=2.0), wire_models()["words"]
    data, table = lens.to_bytes(TEXT), model.model.get_input_embeddings()
    before = table(torch.tensor([model.tokenizer.bos_token_id, *model.tokenizer.convert_tokens_to_ids(["w7", "w8"])]))
    plain, inside = (whole_prompt(lens, data, "w90", "words", preamble=text) for text in (None, "w7 w8"))
    assert torch.equal(inside, torch.cat([before, plain[1:]])), "BOS, preamble, code, question"
    body = vllm_completion(lens, data, "w90", "words", max_tokens=3, preamble="w7 w8")
    own = lens.answer(data, "w90", "words", preamble="w7 w8", max_new_tokens=3, min_new_tokens=3)
    assert goes_on(model, decoded(body["prompt_embeds"], model.hidden_size), 3) == own
    fixed = wire_lens(ratio=2.0, preamble="w7 w8")
    assert torch.equal(whole_prompt(fixed, fixed.to_bytes(TEXT), "w90", "words"), inside), "as it was trained"


def test_embeddings_have_the_dtype_of_their_model() -> None:
    lens = with_template()
    llama = shared_lm("llama")
    half = FrozenLM(tiny_model("llama").to(torch.bfloat16), llama.tokenizer, name="words")
    lens.models = FrozenModels([half])
    data = lens.to_bytes(TEXT)
    assert decoded(vllm_completion(lens, data, "w90", "words")["prompt_embeds"], 32).dtype == torch.bfloat16
    assert soft_prompt(lens, data, "words").dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"receiver": "turned"}, "receiver='turned': the tokenizer.* has no chat template.*vllm_completion"),
        ({"receiver": None}, "the lens has several"),
        ({"wire": b"x"}, "not those of a wire"),
    ],
)  # fmt: skip
def test_what_cannot_be_sent_is_named(settings: dict[str, Any], said: str) -> None:
    lens = with_template()
    given: dict[str, Any] = {"wire": lens.to_bytes(TEXT), "question": "w90", "receiver": "words"} | settings
    with pytest.raises(BadInput, match=said):
        vllm_chat(lens, **given)
    lens.models = None
    for request in (vllm_chat, vllm_completion, sglang_generate):
        with pytest.raises(BadInput, match="the model is not at hand"):
            request(lens, lens.to_bytes(TEXT), "w90", "words")
