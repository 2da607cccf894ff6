"""The options of the commands that use a wire."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...errors import BadInput
from .answering import AnswerSettings
from .sending import WINDOW


@dataclass
class WireUseOptions:
    """A wire in use: `compress`, `answer` and `serve`."""

    code_length: int | None = field(
        default=None, metadata={"help": "Number of vectors of each text, in the place of the lens's own rate."}
    )
    size: int | None = field(
        default=None, metadata={"help": "Size of a vector: that of the lens, or one of its smaller ones (nested)."}
    )
    per_line: bool = field(default=False, metadata={"help": "Text: each line of the file is one, and not the whole."})
    window: int | None = field(
        default=None,
        metadata={
            "help": f"Number of tokens that are compressed together at most. Default: {WINDOW}, or the compressor's "
            "longest context."
        },
    )
    receiver: str | None = field(
        default=None, metadata={"help": "Name of the model that reads the wire. Default: the only one of the lens."}
    )
    task: str = field(
        default="answer", metadata={"help": "Task of the question; it decides the text around it, as in training."}
    )
    max_new_tokens: int = field(default=32, metadata={"help": "Number of tokens of an answer, at most."})
    min_new_tokens: int = field(
        default=0, metadata={"help": "Number of first tokens at which the end of the text is not chosen."}
    )
    first_top_p: float | None = field(
        default=None,
        metadata={"help": "Probability that the tokens have together of which the first is drawn. Default: greedy."},
    )
    first_temperature: float | None = field(
        default=None, metadata={"help": "Temperature of the first token, which is then drawn. Default: greedy."}
    )
    stop_at_line: bool = field(default=False, metadata={"help": "Answer that ends where its line ends."})
    port: int = field(default=8017, metadata={"help": "Port of serve on 127.0.0.1; 0: any free one."})
    largest_wire: int = field(default=1 << 20, metadata={"help": "Number of bytes that serve takes at most."})

    def __post_init__(self) -> None:
        if not 0 <= self.port < 1 << 16:
            raise BadInput("port", self.port, "Use 0 to 65535.")
        if self.largest_wire < 1:
            raise BadInput("largest_wire", self.largest_wire, "Use 1 byte or more.")

    def decoding(self, seed: int = 0) -> AnswerSettings:
        """How answers are decoded."""
        return AnswerSettings(
            self.max_new_tokens,
            self.min_new_tokens,
            self.first_top_p,
            self.first_temperature,
            self.stop_at_line,
            seed,
        )
