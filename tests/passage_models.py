"""Three tiny models whose tokenizers share nothing: whole words, bytes without BOS, pieces with a space in front."""

from __future__ import annotations

from functools import cache

from tiny import shared_lm, tiny_model
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from consistency_lens.frozen import FrozenLM

_TEXTS = ["the quick brown fox jumps over the lazy dog . w1 w2 w3 w4 w5", "Question: what? Answer: the answer, 42!"]


@cache
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level pieces as GPT-2's: no BOS in front, and the PAD is the EOS."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    backend.train_from_iterator(_TEXTS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|end|>", pad_token="<|end|>", clean_up_tokenization_spaces=False
    )


@cache
def piece_tokenizer() -> PreTrainedTokenizerFast:
    """Pieces as Llama-2's: a BOS in front, and a space before whatever begins; unknown characters become bytes."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    letters = [chr(code) for code in range(33, 127)] + ["▁"]
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=letters, special_tokens=special, show_progress=False
    )
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.normalizer = backend.normalizer
    trained.train_from_iterator(_TEXTS, trainer)
    # The bytes are ordinary words of the vocabulary, no special tokens: only the model of what was trained is kept.
    backend.model = trained.model
    backend.model.byte_fallback = True
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    start = backend.token_to_id("<s>")
    backend.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", start)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


@cache
def passage_models() -> dict[str, FrozenLM]:
    """Name -> model; shared, so not to be changed."""
    by_bytes, by_pieces = byte_tokenizer(), piece_tokenizer()
    return {
        "words": shared_lm("llama"),
        "bytes": FrozenLM(tiny_model("gpt2", vocab_size=len(by_bytes)), by_bytes, model_id="tiny-bytes"),
        "pieces": FrozenLM(tiny_model("qwen3", vocab_size=len(by_pieces)), by_pieces, model_id="tiny-pieces"),
    }
