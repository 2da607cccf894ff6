"""Starting texts of many rows: made once, kept, and cut down to what an activation supports.

Shapes: B rows, T tokens of a text, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from ..frozen import FrozenLM
from ..objectives import log_probability_of
from .configuration import ConsistencyLensConfig
from .generation import Words
from .warm_start import packed, quoted_of, starting_words, tail_of


@dataclass(frozen=True)
class StartingTexts:
    """Texts for the decoder to begin with.

    Args:
        words: the texts.
        tail: `[B]`, how many of a text's first tokens are quoted from the end of the context; the others are what the
            subject goes on with.
        pad_id: what `words` are padded with.
    """

    words: Words
    tail: Tensor
    pad_id: int

    @classmethod
    def of(
        cls,
        kind: str,
        contexts: Mapping[str, Tensor],
        config: ConsistencyLensConfig,
        frozen: FrozenLM,
        sure: float = 0.0,
        any_process: Callable[[bool], bool] = bool,
    ) -> Self:
        """Texts for the contexts of a batch, `input_ids` and `attention_mask`, without guesses of the subject that it
        gives less probability than `sure`. `any_process` says whether the subject has to be asked by all because one
        of them needs it."""
        ids, mask = (contexts[name].to(frozen.device) for name in ("input_ids", "attention_mask"))
        words = tail_of(ids, mask, config, config.code_length)
        # Quoting needs no pass of the subject.
        if kind != "context" or any_process(not bool((words.lengths > 0).all())):
            prefix = frozen.prefix({"input_ids": ids, "attention_mask": mask})
            words = starting_words(kind, prefix, config, frozen, sure=sure)
        tail = mask.sum(1).clamp_max(quoted_of(kind, config.code_length))
        return cls(words, torch.minimum(tail, words.lengths).cpu(), config.pad_id)

    def rows(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        return list(zip(self.words.ids.cpu(), self.words.mask.cpu(), self.tail, strict=True))

    @classmethod
    def gather(cls, rows: Sequence[tuple[Tensor, Tensor, Tensor]], pad_id: int, device: Any = "cpu") -> Self:
        ids, mask, tail = (torch.stack(parts).to(device) for parts in zip(*rows, strict=True))
        return cls(Words(ids, mask), tail, pad_id)

    def supported(self, logits: Tensor, sure: float) -> Self:
        """The same texts without what the decoder would have to guess.

        The text is cut to the stretch around P in which every token has at least the probability `sure` under the
        decoder that reads the activation: from behind the last doubtful token before P to the first doubtful one after
        it. P's own token always stays, or the first one where nothing is quoted.

        Args:
            logits: `[B, T, V]` that the decoder gives to the whole texts.
            sure: the least probability.
        """
        if sure <= 0:
            return self
        ids, mask = self.words.ids, self.words.mask.bool()
        probability = log_probability_of(logits, ids).exp()
        columns, middle = torch.arange(ids.shape[1], device=ids.device), (self.tail - 1).clamp_min(0).unsqueeze(1)
        doubtful = (probability < sure) & (columns != middle)
        before = doubtful & (columns < middle)
        behind_doubt = before.flip(1).cumsum(1).flip(1) == 0
        ahead_of_doubt = (doubtful & (columns > middle)).cumsum(1) == 0
        keep = mask & behind_doubt & ahead_of_doubt
        kept_tail = (keep & (columns < self.tail.unsqueeze(1))).sum(1)
        return type(self)(packed(ids, keep, self.pad_id), kept_tail, self.pad_id)
