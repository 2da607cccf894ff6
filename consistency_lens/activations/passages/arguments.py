"""Which passages to make, and everything that decides them."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...errors import BadInput
from ..corpus import CorpusArguments
from ..documents import SplitArguments, SplitRules

FORMATS = ("text", "squad", "hotpotqa", "columns")


@dataclass
class PassageArguments(SplitArguments, CorpusArguments):
    """Which texts to read, and how they become passages with prompts and answers."""

    passage_format: str = field(
        default="text",
        metadata={
            "help": "Layout of the source. text: any text, from which prompts and answers are cut; squad: context, "
            "question, answers; hotpotqa: context of titles and sentences, question, answer; columns: any names.",
            "choices": list(FORMATS),
        },
    )
    passage_column: str = field(default="passage", metadata={"help": "Column of the passage, with format columns."})
    prompt_column: str = field(default="prompt", metadata={"help": "Column of the prompt, with format columns."})
    answer_column: str = field(
        default="answer", metadata={"help": "Column of the answer, or of a list of them, with format columns."}
    )
    skip_unanswerable: bool = field(default=False, metadata={"help": "Leave out questions that have no answer."})
    passage_words: int = field(default=128, metadata={"help": "Words per passage, with format text."})
    prompt_words: int = field(default=8, metadata={"help": "Words of the prompt of a recall, with format text."})
    lead_words: int = field(
        default=1,
        metadata={
            "help": "Words of a continuation that the prompt gives, with format text. A model without a BOS token "
            "needs 1 or more."
        },
    )
    answer_words: int = field(
        default=16, metadata={"help": "Words of the answer of a recall or a continuation, with format text."}
    )
    recall_share: float = field(
        default=0.0, metadata={"help": "Share of passage recall, with format text; continuation takes what is left."}
    )
    reconstruction_share: float = field(default=0.2, metadata={"help": "Share of reconstruction, with format text."})

    def __post_init__(self) -> None:
        if self.passage_format not in FORMATS:
            raise BadInput("passage_format", self.passage_format, f"Use one of {', '.join(FORMATS)}.")
        if self.keep_columns:
            fix = "Leave it out: passages carry no other columns."
            raise BadInput("keep_columns", self.keep_columns, fix)
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
