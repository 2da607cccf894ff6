"""Starting texts of a batch, and what of them an activation supports.

Shapes: B rows, T tokens of a text, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from ...frozen import FrozenLM
from ...objectives import log_probability_of
from ..configuration import ConsistencyLensConfig
from ..parts.generation import Words
from .evidence import evidence_of
from .foresight import Foresight, foreseen
from .warm_start import NO_DOUBT, WARM_STARTS, Doubt, never_empty, packed, quoted_of, starting_words, tail_of

EVIDENCE = "evidence"
KINDS = (*WARM_STARTS, EVIDENCE)


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
        doubt: Doubt = NO_DOUBT,
        any_process: Callable[[bool], bool] = bool,
        evidence: float = 0.5,
        foresight: int = 0,
    ) -> Self:
        """Texts for the contexts of a batch, `input_ids` and `attention_mask`. `doubt` is the model's, about what it
        says itself. `any_process` says whether the frozen model has to be asked by all because one of them needs it.
        `evidence` is the share of a text of that kind for words of the context, and `foresight` how many tokens behind
        P decide which words those are; 0 for as many as the text says itself."""
        ids, mask = (contexts[name].to(frozen.device) for name in ("input_ids", "attention_mask"))
        if kind == EVIDENCE:
            rows = [own[kept.bool()].cpu() for own, kept in zip(ids, mask, strict=True)]
            if foresight:
                found = foreseen(rows, config, frozen, Foresight(foresight), evidence, doubt)
            else:
                found = evidence_of(rows, config, frozen, evidence, doubt)
            words, quoted = found.words.to(frozen.device), found.quoted.to(frozen.device)
            if any_process(not bool((words.lengths > 0).all())):
                words = never_empty(words, frozen.prefix({"input_ids": ids, "attention_mask": mask}), config)
            return cls(words, torch.minimum(quoted, words.lengths), config.pad_id)
        words = tail_of(ids, mask, config, config.code_length)
        # Quoting needs no pass of the frozen model.
        if kind != "context" or any_process(not bool((words.lengths > 0).all())):
            prefix = frozen.prefix({"input_ids": ids, "attention_mask": mask})
            words = starting_words(kind, prefix, config, frozen, doubt=doubt)
        tail = mask.sum(1).clamp_max(quoted_of(kind, config.code_length))
        return cls(words, torch.minimum(tail, words.lengths), config.pad_id)

    def take(self, rows: Tensor) -> Self:
        return type(self)(self.words.take(rows), self.tail[rows], self.pad_id)

    def to(self, device: torch.device) -> Self:
        return type(self)(self.words.to(device), self.tail.to(device), self.pad_id)

    def supported(self, logits: Tensor, doubt: Doubt) -> Self:
        """The same texts without what the decoder, which reads the activation alone, would have to guess.

        With a general word, that takes the place of each guess, and is all of a text in which nothing is known.
        Without one, the text is cut to the stretch around P that holds no guess: from behind the last doubtful token
        before P to the first doubtful one after it; P's own token stays, or the first one where nothing is quoted.

        Args:
            logits: `[B, T, V]` that the decoder gives to the whole texts.
            doubt: the decoder's.
        """
        if doubt.below <= 0:
            return self
        ids, mask = self.words.ids, self.words.mask.bool()
        probability = log_probability_of(logits, ids).exp()
        columns, middle = torch.arange(ids.shape[1], device=ids.device), (self.tail - 1).clamp_min(0).unsqueeze(1)
        if doubt.word is None:
            doubtful_before = (probability < doubt.below) & (columns < middle)
            keep = mask & (doubtful_before.flip(1).cumsum(1).flip(1) == 0)
            ids, keep = doubt.of(ids, torch.where(columns <= middle, 1.0, probability), keep)
        else:
            ids, keep = doubt.of(ids, probability, mask)
            nothing = ~keep.any(1)
            ids[nothing, 0], keep[nothing, 0] = doubt.word, True
        kept_tail = (keep & (columns < self.tail.unsqueeze(1))).sum(1)
        return type(self)(packed(ids, keep, self.pad_id), kept_tail, self.pad_id)
