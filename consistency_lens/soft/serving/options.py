"""The options of the commands that use a wire."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import BadInput
from ...options import option
from .answering import AnswerSettings
from .sending import WINDOW


@dataclass
class WireUseOptions:
    """A wire in use: `compress`, `answer` and `serve`."""

    code_length: int | None = option(None, "Number of vectors of each text, in the place of the lens's own rate.")
    size: int | None = option(None, "Size of a vector: that of the lens, or one of its smaller ones (nested).")
    per_line: bool = option(False, "Text: each line of the file is one, and not the whole.")
    window: int | None = option(
        None,
        f"Number of tokens that are compressed together at most. Default: {WINDOW}, or the compressor's "
        "longest context.",
    )
    receiver: str | None = option(None, "Name of the model that reads the wire. Default: the only one of the lens.")
    task: str = option("answer", "Task of the question; it decides the text around it, as in training.")
    max_new_tokens: int = option(32, "Number of tokens of an answer, at most.")
    min_new_tokens: int = option(0, "Number of first tokens at which the end of the text is not chosen.")
    first_top_p: float | None = option(
        None, "Probability that the tokens have together of which the first is drawn. Default: greedy."
    )
    first_temperature: float | None = option(
        None, "Temperature of the first token, which is then drawn. Default: greedy."
    )
    stop_at_line: bool = option(False, "Answer that ends where its line ends.")
    port: int = option(8017, "Port of serve on 127.0.0.1; 0: any free one.")
    largest_wire: int = option(1 << 20, "Number of bytes that serve takes at most.")

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
