"""The tokenizer of the demo world: one word, one token, <bos> once in front."""

from __future__ import annotations

from typing import TYPE_CHECKING

from consistency_lens.demo.stories import all_words
from consistency_lens.demo.words import PROMPT_WORDS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")


def vocabulary() -> dict[str, int]:
    """word -> id: special tokens, then every word of the world and of a decoder prompt."""
    words = sorted(set(all_words()) | set(PROMPT_WORDS))
    return {word: index for index, word in enumerate((*SPECIAL, *words))}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer that transformers saves and loads like any other."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    vocab = vocabulary()
    tokenizer = Tokenizer(WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B:1", special_tokens=[("<bos>", vocab["<bos>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side="right",
        clean_up_tokenization_spaces=False,
        model_max_length=256,
    )
