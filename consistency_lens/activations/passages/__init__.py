"""Passages with prompts and answers, tokenised for several models: what a code of soft tokens is trained on."""

from .arguments import PassageArguments
from .collator import PassageCollator, context_of
from .example import Example
from .passages import Passages
from .prompts import PromptFormat
from .tokens import PassageTokenizer

__all__ = [
    "Example",
    "PassageArguments",
    "PassageCollator",
    "PassageTokenizer",
    "Passages",
    "PromptFormat",
    "context_of",
]
