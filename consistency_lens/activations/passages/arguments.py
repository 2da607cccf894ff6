"""Which passages to make, and everything that decides them."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import BadInput
from ...options import option
from ..corpus import CorpusArguments
from ..documents import SplitArguments, SplitRules

FORMATS = ("text", "squad", "hotpotqa", "benchpress", "columns")


@dataclass
class PassageRules(SplitArguments):
    """How texts become passages with prompts and answers."""

    passage_format: str = option(
        "text",
        "Layout of the source. text: any text, from which passages, prompts and answers are cut; squad: context, "
        "question, answers; hotpotqa: context of titles and sentences, question, answer; benchpress: context, "
        "question, a list of answers; columns: passage_column, prompt_column and answer_column.",
        FORMATS,
    )
    passage_column: str = option("passage", "Column of the passage, with format columns.")
    prompt_column: str = option("prompt", "Column of the prompt, with format columns.")
    answer_column: str = option("answer", "Column of the answer, or of a list of them, with format columns.")
    skip_unanswerable: bool = option(False, "Leave out questions that have no answer.")
    passage_words: int = option(128, "Number of words of a passage, with format text.")
    prompt_words: int = option(8, "Number of words of the prompt of a recall, with format text.")
    lead_words: int = option(
        1,
        "Number of words of a continuation that the prompt gives, with format text. A model without a BOS token needs "
        "1 or more.",
    )
    answer_words: int = option(16, "Number of words of the answer of a recall or a continuation, with format text.")
    recall_share: float = option(0.0, "Share of passage recall, with format text; continuation takes what is left.")
    reconstruction_share: float = option(0.2, "Share of reconstruction, with format text.")

    def __post_init__(self) -> None:
        if self.passage_format not in FORMATS:
            raise BadInput("passage_format", self.passage_format, f"Use one of {', '.join(FORMATS)}.")
        for name, value, least in [
            ("prompt_words", self.prompt_words, 1),
            ("answer_words", self.answer_words, 1),
            ("lead_words", self.lead_words, 0),
            ("passage_words", self.passage_words, self.least_words),
        ]:
            if value < least:
                raise BadInput(name, value, f"Use {least} or more.")
        shares = (self.recall_share, self.reconstruction_share)
        if not (min(shares) >= 0 and sum(shares) <= 1):
            raise BadInput("recall_share", shares, "Recall and reconstruction are shares of 1 together at most.")
        SplitRules.of(self)

    @property
    def least_words(self) -> int:
        """Words of the shortest passage: a recall has to find its prompt and its answer there."""
        return self.prompt_words + self.answer_words


@dataclass
class PassageArguments(PassageRules, CorpusArguments):
    """Which texts to read, and how they become passages."""

    def __post_init__(self) -> None:
        if self.keep_columns:
            fix = "Leave it out: passages carry no other columns."
            raise BadInput("keep_columns", self.keep_columns, fix)
        super().__post_init__()
