"""Starting texts that cost no other model: what the frozen model has read and what it says, in at most T tokens.

The decoder learns to write such a text from the activation and the encoder to read it, before either is trained on
function: from nothing, the two invent a code whose words mean nothing.

Shapes: B rows, S columns of the contexts, T tokens of a text.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import BadInput
from ...frozen import FrozenLM, Prefix
from ..configuration import PLACEHOLDER, ConsistencyLensConfig
from ..parts.generation import Words

WARM_STARTS = ("none", "context", "continuation", "onward", "span", "summary")


@dataclass(frozen=True)
class Doubt:
    """What a starting text does where its next token would be a guess: decoders that learn guesses make up more.

    Args:
        below: a token with less than this probability is a guess.
        word: id of a general word that is said in its place; without one the text ends before it. Where two in a row
            would be guesses nothing is known any more, and the text ends too.
    """

    below: float = 0.0
    word: int | None = None

    def of(self, ids: Tensor, probability: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        """Ids and which of them are kept, once every guess is dealt with. No text ends in general words.

        Args:
            ids, probability: `[B, T]`, tokens and how likely each was held to be.
            keep: `[B, T]`, which of them are a text.
        """
        guessed = probability < self.below
        if self.word is None:
            return ids, keep & (guessed.cumsum(1) == 0)
        guessed |= ids == self.word
        lost = guessed & F.pad(guessed[:, 1:], (0, 1))
        keep = keep & (lost.cumsum(1) == 0)
        said = keep & ~guessed
        return torch.where(guessed, self.word, ids), keep & (said.flip(1).cumsum(1).flip(1) > 0)


NO_DOUBT = Doubt()


def quoted_of(kind: str, length: int) -> int:
    """How many of a text's first tokens are quoted from the end of the context."""
    return {"context": length, "onward": 1, "span": length // 2}.get(kind, 0)


@torch.no_grad()
def starting_words(
    kind: str,
    prefix: Prefix,
    config: ConsistencyLensConfig,
    frozen: FrozenLM,
    length: int | None = None,
    summary_prompt: str | None = None,
    doubt: Doubt = NO_DOUBT,
) -> Words:
    """One text per row, for the decoder to begin with.

    No text holds a special token, and none is empty: where nothing is left, it is the last token of the context, or,
    if that is special, the likeliest token that a text may hold.

    Args:
        kind: `context`: the last T tokens of the context; `continuation`: the T tokens that the model goes on with,
            greedily; `onward`: the token at P and then the continuation; `span`: the last T // 2 of the context and
            then the continuation; `summary`: what the frozen model says when it is prompted behind the context.
        prefix: the contexts.
        config: of the lens.
        frozen: the frozen model.
        length: T; default `config.code_length`.
        summary_prompt: what the frozen model is asked for a `summary`; default `config.prompt`, with "this" where the
            activation would enter.
        doubt: what becomes of tokens in what the frozen model says that it is not sure of.
    """
    if kind not in WARM_STARTS or kind == "none":
        texts = ", ".join(name for name in WARM_STARTS if name != "none")
        raise BadInput("warm_start", kind, f"Use one of {texts}.", "`none` has no texts" if kind == "none" else "")
    length = config.code_length if length is None else length
    if length < 1:
        raise BadInput("length", length, "Give a text at least one token.")
    quoted = quoted_of(kind, length)
    if kind == "summary":
        asked = prompted(prefix, frozen, summary_prompt or config.prompt.replace(PLACEHOLDER, "this"))
        words = said_after(asked, config, length, doubt)
    elif quoted == length:
        words = tail_of(prefix.input_ids, prefix.mask, config, length)
    else:
        words = said_after(prefix, config, length - quoted, doubt)
        if quoted:
            words = joined(tail_of(prefix.input_ids, prefix.mask, config, quoted), words, config.pad_id)
    return never_empty(words, prefix, config)


def barred(ids: Tensor, config: ConsistencyLensConfig) -> Tensor:
    """Which ids no text may hold: special ones, and the one that ends a text."""
    never = torch.tensor([config.stop_id, *(config.never_ids or [])], device=ids.device)
    return torch.isin(ids, never)


def packed(ids: Tensor, keep: Tensor, pad_id: int) -> Words:
    """The tokens of each row that are kept, in their order, without gaps."""
    order = (~keep).long().argsort(dim=1, stable=True)
    mask = keep.gather(1, order)
    return Words(torch.where(mask, ids.gather(1, order), pad_id), mask.long())


def joined(first: Words, second: Words, pad_id: int) -> Words:
    """Each text with another directly behind it."""
    ids, mask = (torch.cat(pair, dim=1) for pair in ((first.ids, second.ids), (first.mask, second.mask)))
    return packed(ids, mask.bool(), pad_id)


def tail_of(input_ids: Tensor, mask: Tensor, config: ConsistencyLensConfig, length: int) -> Words:
    """The last tokens of each context that a text may hold; fewer where the context has fewer."""
    keep = mask.bool() & ~barred(input_ids, config)
    keep &= keep.flip(1).cumsum(1).flip(1) <= length
    words = packed(input_ids, keep, config.pad_id)
    missing = max(0, length - words.ids.shape[1])
    return Words(
        torch.nn.functional.pad(words.ids, (0, missing), value=config.pad_id)[:, :length],
        torch.nn.functional.pad(words.mask, (0, missing))[:, :length],
    )


def said_after(prefix: Prefix, config: ConsistencyLensConfig, length: int, doubt: Doubt = NO_DOUBT) -> Words:
    """What the frozen model goes on with, greedily, up to the first token that no text may hold."""
    ids, probability = prefix.continue_greedily(length)
    return packed(*doubt.of(ids, probability, barred(ids, config).cumsum(1) == 0), config.pad_id)


def prompted(prefix: Prefix, frozen: FrozenLM, prompt: str) -> Prefix:
    """The contexts with a prompt behind them."""
    ids = frozen.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    if not ids:
        raise BadInput("summary_prompt", prompt, "Ask with at least one word.")
    return prefix.extended(torch.tensor([ids]).expand(len(prefix.input_ids), -1))


def never_empty(words: Words, prefix: Prefix, config: ConsistencyLensConfig) -> Words:
    """The same texts, with one token in those that have none."""
    empty = words.lengths == 0
    if not bool(empty.any()):
        return words
    logits, last = prefix.logits()[:, 0], prefix.input_ids[:, -1]
    never = barred(torch.arange(logits.shape[1], device=logits.device), config)
    only = torch.where(barred(last, config), logits.masked_fill(never, -torch.inf).argmax(-1), last)
    ids, mask = words.ids.clone(), words.mask.clone()
    ids[:, 0], mask[:, 0] = torch.where(empty, only, ids[:, 0]), mask[:, 0].clamp_min(1)
    return Words(ids, mask)
