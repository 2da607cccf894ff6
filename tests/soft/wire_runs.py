"""What the tests of the wire share: models whose vocabularies hold the same words in another order, and passages."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from datasets import Dataset
from tiny import VOCABULARY, shared_lm, tiny_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from consistency_lens.activations.passages import Passages
from consistency_lens.frozen import FrozenLM, FrozenModels
from consistency_lens.soft.data import collator_of
from consistency_lens.soft.modeling import LatentWire

NAMES = ("words", "turned")


def turned_tokenizer() -> PreTrainedTokenizerFast:
    """The words of `tiny_tokenizer`, numbered from behind; no BOS in front."""
    words = [f"w{i}" for i in reversed(range(VOCABULARY - 4))] + ["<pad>", "<eos>", "<unk>", "<bos>"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing("$A", special_tokens=[])
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


@cache
def wire_models() -> FrozenModels:
    """A llama, and a Gemma whose embeddings are those of the llama's words, turned in space and scaled."""
    llama = shared_lm("llama")
    words = FrozenLM(llama.model, llama.tokenizer, model_id=llama.model_id, name="words")
    gemma, tokenizer = tiny_model("gemma3"), turned_tokenizer()
    turn = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(1)))[0]
    theirs = gemma.get_input_embeddings().weight
    with torch.no_grad():
        for word, number in tokenizer.get_vocab().items():
            if word in words.tokenizer.get_vocab():
                at = words.tokenizer.get_vocab()[word]
                theirs[number] = llama.model.get_input_embeddings().weight[at] @ turn
    return FrozenModels([words, FrozenLM(gemma, tokenizer, model_id="tiny-turned", name="turned")])


@cache
def other_lm() -> FrozenLM:
    """A GPT-2 that is no receiver: wider, with the same words in an order of its own, and two of which only it knows.
    Its embeddings are those of the llama's words in a larger space."""
    order = [f"w{(17 * i + 5) % (VOCABULARY - 4)}" for i in range(VOCABULARY - 4)]
    words = ["<end>", "<pad>", *order, "apart", "alone"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<end>")
    gpt2, known = tiny_model("gpt2", n_embd=48), wire_models()["words"]
    wider = 2 * torch.linalg.qr(torch.randn(48, 32, generator=torch.Generator().manual_seed(3)))[0].T
    with torch.no_grad():
        for word in order:
            row = known.model.get_input_embeddings().weight[known.tokenizer.get_vocab()[word]]
            gpt2.get_input_embeddings().weight[tokenizer.get_vocab()[word]] = row @ wider
    return FrozenLM(gpt2, tokenizer, model_id="tiny-other")


def rows_of(count: int = 60) -> list[dict[str, Any]]:
    """Passages of three to nine words; the answer is one of them."""
    found = []
    for i in range(count):
        words = [f"w{(7 * i + 13 * j) % 80}" for j in range(3 + i % 7)]
        found.append({"passage": " ".join(words), "prompt": "w90", "answer": words[i % 3]})
    return found


@cache
def wire_passages() -> Passages:
    given = Passages.from_dataset(Dataset.from_list(rows_of()), validation_fraction=0.2, test_fraction=0.2)
    return given.tokenised(wire_models())


def batch_of(rows: int | list[int] = 6, split: str = "train") -> dict[str, Any]:
    passages = wire_passages()
    chosen = range(rows) if isinstance(rows, int) else rows
    return passages.collator(wire_models())([passages.splits[split][i] for i in chosen])


def text_batch(lens: LatentWire, text: str, prompt: str = "w90") -> dict[str, Any]:
    """A passage of one's own, and a prompt about it."""
    assert lens.models is not None
    row = {"passage": text, "prompt": prompt, "answers": ["w1"], "task": "answer", "ends": True}
    return collator_of(lens.config, lens.models)([row])


def wire_lens(**settings: Any) -> LatentWire:
    rate = {} if {"slots", "ratio"} & settings.keys() else {"ratio": 1.0}
    return LatentWire.from_models(wire_models(), **rate, **settings).eval()
