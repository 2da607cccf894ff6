"""Tiny Natural Language Autoencoders in the formats that others publish, built in code, and what they compute by
their own definition."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from safetensors.torch import save_file
from tiny import tiny_model, tiny_tokenizer
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from consistency_lens import FrozenLM
from consistency_lens.text.others.sidecar import FILE

LAYER, SCALE, RANK, ALPHA = 2, 7.5, 4, 6
WORDS = ["<explanation>", "</explanation>", "<text>", "</text>", "<summary>", "<concept>", "</concept>", "here"]
WORDS += ["user", "assistant", "Summary", "of", "explain"]
PROMPT = "explain <concept> {injection_char} </concept> here"
READING = "Summary of <text> {explanation} </text> <summary>"
CHAT = "<bos> user {{ messages[0]['content'] }} assistant"


@cache
def subject() -> FrozenLM:
    """A llama whose words are those of the prompts, too."""
    return FrozenLM(tiny_model("llama", max_position_embeddings=512), chat_tokenizer(), model_id="tiny-chat")


def chat_tokenizer() -> PreTrainedTokenizerFast:
    plain = tiny_tokenizer()
    words = sorted(plain.get_vocab(), key=plain.get_vocab().get)  # type: ignore[arg-type]
    words[-len(WORDS) - 1 :] = [*WORDS, "㈎"]
    backend = Tokenizer.from_str(plain.backend_tokenizer.to_str())
    backend.model = models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    names = {name: str(getattr(plain, name)) for name in ("pad_token", "bos_token", "eos_token", "unk_token")}
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=CHAT, **names)


def stirred(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    """A fine-tuned model: another one of the same architecture."""
    made, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    return made


def sidecar(folder: Path, **changes: Any) -> None:
    ids = chat_tokenizer().get_vocab()
    said = {
        "kind": "nla_model",
        "d_model": 32,
        "base_checkpoint": "tiny-chat",
        "extraction_layer_index": LAYER,
        "extraction": {"injection_scale": SCALE, "mse_scale": 5.6},
        "tokens": {
            "injection_char": "㈎",
            "injection_token_id": ids["㈎"],
            "injection_left_neighbor_id": ids["<concept>"],
            "injection_right_neighbor_id": ids["</concept>"],
        },
        "prompt_templates": {"av": PROMPT, "ar": READING},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(yaml.safe_dump(said | changes, allow_unicode=True), encoding="utf-8")


def shortened(model: PreTrainedModel) -> PreTrainedModel:
    """Its first blocks alone."""
    made = copy.deepcopy(model)
    del made.model.layers[LAYER + 1 :]
    made.config.num_hidden_layers = LAYER + 1
    return made


def head_of(seed: int = 5) -> Tensor:
    return torch.eye(32) + 0.2 * torch.randn(32, 32, generator=torch.Generator().manual_seed(seed))


def of_the_authors(folder: Path) -> tuple[PreTrainedModel, PreTrainedModel, Tensor]:
    """`x-av` and `x-ar`, merged weights, the verbaliser's in several files; returns what is in them."""
    writes, reads = stirred(subject().model, 1), shortened(stirred(subject().model, 2))
    writes.save_pretrained(folder / "x-av", max_shard_size="40KB")
    kept = {name: p for name, p in reads.state_dict().items() if "lm_head" not in name and name != "model.norm.weight"}
    (folder / "x-ar").mkdir()
    save_file(kept, folder / "x-ar" / "model.safetensors")
    (folder / "x-ar" / "config.json").write_text(reads.config.to_json_string())
    save_file({"weight": head_of()}, folder / "x-ar" / "value_head.safetensors")
    sidecar(folder / "x-av")
    sidecar(folder / "x-ar", role="ar", ar={"num_hidden_layers": LAYER})
    return writes, reads, head_of()


def of_easy(folder: Path) -> tuple[Any, Any, Tensor]:
    """Adapters of low rank for both, below a folder with the sidecar of their data."""
    how = LoraConfig(r=RANK, lora_alpha=ALPHA, use_rslora=True, target_modules=["q_proj", "down_proj"])
    torch.manual_seed(3)
    writes = get_peft_model(copy.deepcopy(subject().model), how)
    reads = inject_adapter_in_model(how, shortened(subject().model))
    with torch.no_grad():
        for name, parameter in [*writes.named_parameters(), *reads.named_parameters()]:
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    writes.save_pretrained(folder / "iter_4")
    (folder / "critic").mkdir()
    own = {f"backbone.{name}": p.detach().clone() for name, p in reads.named_parameters() if "lora_" in name}
    save_file(own | {"value_head.weight": head_of()}, folder / "critic" / "ar_lora_value_head.safetensors")
    said = {"ar_num_layers": LAYER + 1, "lora_r": RANK, "lora_alpha": ALPHA, "final_norm_stripped": True}
    (folder / "critic" / "ar_meta.json").write_text(json.dumps(said))
    extraction = {"base_model": "tiny-chat", "d_model": 32, "layer_index": LAYER}
    templates = {"actor": PROMPT, "critic": READING}
    sidecar(folder, kind="nla_dataset", d_model=32, extraction=extraction, prompt_templates=templates)
    return writes, reads, head_of()


@torch.no_grad()
def said(writes: Any, vector: Tensor, adds: bool, length: int, never: list[int]) -> list[int]:
    """The likeliest tokens by definition, the whole text again for each: the vector at one norm in the place of the
    character's embedding, or added behind block 1 at the norm that is there."""
    tokens = chat_tokenizer()
    ids = tokens(CHAT.replace("{{ messages[0]['content'] }}", PROMPT).replace("{injection_char}", "㈎"))["input_ids"]
    ids, at, found = ids[1:], ids[1:].index(tokens.get_vocab()["㈎"]), []  # the template begins with <bos> itself
    base = writes.get_base_model() if adds else writes

    def add(_module: Any, _inputs: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        hidden[0, at] += hidden[0, at].norm() * vector / vector.norm()
        return output

    for step in range(length):
        embedded = base.get_input_embeddings()(torch.tensor([ids + found])).clone()
        if adds:
            hook = base.model.layers[1].register_forward_hook(add)
        else:
            embedded[0, at] = vector / vector.norm() * SCALE
        logits = writes(inputs_embeds=embedded).logits[0, -1]
        if adds:
            hook.remove()
        logits[never + ([2] if step == 0 else [])] = -torch.inf
        if int(logits.argmax()) == 2:
            break
        found.append(int(logits.argmax()))
    return found


@torch.no_grad()
def read(reads: Any, head: Tensor, text: str, begun: bool) -> Tensor:
    """The direction that is restored, by definition: no last norm, the last token, a head without bias."""
    ids = chat_tokenizer()(READING.replace("{explanation}", text), add_special_tokens=begun)["input_ids"]
    inner = reads.model
    inner.norm = torch.nn.Identity()
    restored = head @ inner(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
    return restored / restored.norm()
