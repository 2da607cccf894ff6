"""`Decoding`: how the next token is chosen from its logits, and what ends a text.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...errors import BadInput

# Seeds of different steps, and of different rows, lie this far apart, so that neighbouring seeds share no draw.
_STEP, _ROW = 0x9E3779B97F4A7C15, 0xD1B54A32D192ED03


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen.

    Args:
        max_new_tokens: how many tokens a row gets at most.
        do_sample: draw each token from the model's distribution; otherwise the likeliest one is taken.
        temperature: logits are divided by it before anything else; for samples alone.
        top_k: only so many likeliest tokens may be drawn; 0 means all of them.
        top_p: only the likeliest tokens may be drawn that together have this probability; 1 means all of them.
        drawn_tokens: so many first tokens are drawn, and after them the likeliest are taken; None for all.
        seed: of the draws. A draw is a function of the seed, the step and the row's number: neither padding nor the
            other rows change it.
        min_new_tokens: in so many first steps no stop token is chosen, and no stop string ends a row.
        stop_ids: tokens that end a row; default those that the tokenizer and the model's generation config name. With
            an empty list nothing does.
        stop_strings: a row ends with the token that completes one of them; `"\\n"` stops at the end of a line.
    """

    max_new_tokens: int = 32
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    drawn_tokens: int | None = None
    seed: int = 0
    min_new_tokens: int = 0
    stop_ids: Sequence[int] | None = None
    stop_strings: Sequence[str] = ()

    def __post_init__(self) -> None:
        if isinstance(self.stop_strings, str):
            object.__setattr__(self, "stop_strings", (self.stop_strings,))
        if self.max_new_tokens < 1:
            raise BadInput("max_new_tokens", self.max_new_tokens, "Generate at least one token.")
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            fix = f"Use 0 to {self.max_new_tokens}, which is max_new_tokens."
            raise BadInput("min_new_tokens", self.min_new_tokens, fix)
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            fix = "Give a positive number, or do_sample=False for the likeliest tokens."
            raise BadInput("temperature", self.temperature, fix)
        if self.top_k < 0:
            raise BadInput("top_k", self.top_k, "Give 0 for all tokens, or how many of them may be drawn.")
        if not 0 < self.top_p <= 1:
            raise BadInput("top_p", self.top_p, "Give a probability above 0; 1 means all tokens.")
        if not all(self.stop_strings):
            raise BadInput("stop_strings", list(self.stop_strings), "Leave out the empty one: every text has it.")
        if self.drawn_tokens is not None and self.drawn_tokens < 1:
            raise BadInput("drawn_tokens", self.drawn_tokens, "Draw 1 or more, or use do_sample=False.")
        unused = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "drawn_tokens": None}
        for name, neutral in unused.items():
            if not self.do_sample and vars(self)[name] != neutral:
                fix = "Set do_sample=True, or leave it out."
                raise BadInput(name, vars(self)[name], fix, why="nothing is drawn where the likeliest token is taken")

    def choose(self, step: int, logits: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        """Token ids `[B]` for logits `[B, V]` in float32; `rows` are the numbers of the rows."""
        if not self.do_sample or (self.drawn_tokens is not None and step >= self.drawn_tokens):
            return logits.argmax(-1)
        return (self.candidates(logits) + self._gumbel(step, logits, rows)).argmax(-1)

    def candidates(self, logits: torch.Tensor) -> torch.Tensor:
        """The logits at this temperature, those of tokens that may not be drawn at minus infinity."""
        logits = logits / self.temperature
        if 0 < self.top_k < logits.shape[-1]:
            smallest = logits.topk(self.top_k, dim=-1).values[:, -1:]
            logits = logits.masked_fill(logits < smallest, float("-inf"))
        if self.top_p < 1:
            ordered, places = logits.sort(dim=-1, descending=True)
            probability = ordered.softmax(-1)
            # The likelier ones have it together already. The likeliest of all has none before it, and stays.
            beyond = (probability.cumsum(-1) - probability).gather(-1, places.argsort(-1)) >= self.top_p
            logits = logits.masked_fill(beyond, float("-inf"))
        return logits

    def _gumbel(self, step: int, logits: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        """Noise `[B, V]` with which the largest of the noisy logits is a draw from their softmax."""
        uniform = torch.empty_like(logits)
        for place, row in enumerate(rows):
            number = (self.seed + (step + 1) * _STEP + (row + 1) * _ROW) % 2**63
            torch.rand(
                logits.shape[-1],
                generator=torch.Generator(logits.device).manual_seed(number),
                out=uniform[place],
            )
        smallest = torch.finfo(uniform.dtype).tiny
        return uniform.clamp_min_(smallest).log_().neg_().clamp_min_(smallest).log_().neg_()
