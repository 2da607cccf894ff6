"""`evidence` of what the model will need later: the words of a context on which what it may say far behind P rests.

What comes next often needs little of what P holds. So the model goes on behind P several times, by itself. A word of
the context is worth the change of the log-probability of what was said, to first order, where the word's embedding
gives way to the mean embedding of its context. Nothing is hidden from attention: any architecture can be asked, and a
word counts as well where it reaches P through other words alone.

Shapes: N rows, S columns of the contexts, H tokens said, d hidden size, V vocabulary.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ...errors import BadInput
from ...frozen import Edit, FrozenLM
from ...objectives import log_probability_of
from ..configuration import ConsistencyLensConfig
from ..parts.generation import Words
from .evidence import LEAST_CHANGE, LOGITS, TOKENS, Evidence, room_of
from .warm_start import NO_DOUBT, Doubt, joined, packed, said_after, tail_of


@dataclass(frozen=True)
class Foresight:
    """How the model is asked what it may need.

    Args:
        tokens: how far it goes on behind P.
        samples: how often.
    """

    tokens: int
    samples: int = 4

    def __post_init__(self) -> None:
        for name in ("tokens", "samples"):
            if vars(self)[name] < 1:
                raise BadInput(name, vars(self)[name], "Use 1 or more.")

    def worth(self, batch: dict[str, Tensor], frozen: FrozenLM) -> Tensor:
        """What each token of the contexts is worth, `[N, S]`, in nats, as the mean of the samples.

        What a row's samples say is a function of its context alone, whatever it runs with.

        Args:
            batch: `input_ids [N, S]` and `attention_mask [N, S]`, padded on the left.
            frozen: the model.
        """
        ids, mask = batch["input_ids"], batch["attention_mask"]
        frozen.require_length(ids.shape[1] + self.tokens, "input_ids and warm_foresight")
        numbers = [zlib.crc32(own[kept.bool()].numpy().tobytes()) for own, kept in zip(ids, mask, strict=True)]
        worth = torch.zeros(ids.shape)
        size = max(1, min(TOKENS // (ids.shape[1] + self.tokens), LOGITS // (self.tokens * frozen.vocab_size)))
        for seed in range(self.samples):
            said = frozen.generate(batch, rows=numbers, max_new_tokens=self.tokens, do_sample=True, seed=seed)
            whole = {"ids": ids, "mask": mask, "said": said.ids.cpu(), "there": said.mask.cpu()}
            for first in range(0, len(ids), size):
                some = {name: each[first : first + size] for name, each in whole.items()}
                worth[first : first + size] += _rests(frozen, **some) / self.samples
        return worth


def foreseen(
    contexts: Sequence[Tensor],
    config: ConsistencyLensConfig,
    frozen: FrozenLM,
    foresight: Foresight,
    share: float = 0.5,
    doubt: Doubt = NO_DOUBT,
) -> Evidence:
    """The text of each context: words that are needed later, in their order, P's own and what comes next.

    Args:
        contexts: ids up to P, one tensor for each row.
        config: of the lens.
        frozen: the model.
        foresight: how the model is asked.
        share: of the tokens of a text, for words of the context.
        doubt: what becomes of tokens in what the model says next that it is not sure of.
    """
    most, ahead = room_of(config.code_length, share)
    ids = pad_sequence([each.cpu() for each in contexts], True, config.pad_id, padding_side="left")
    mask = pad_sequence([torch.ones_like(each.cpu()) for each in contexts], True, 0, padding_side="left")
    batch = {"input_ids": ids, "attention_mask": mask}
    after = said_after(frozen.prefix(batch), config, ahead, doubt).to(ids.device)
    last = tail_of(ids, mask, config, 1)
    never = {config.stop_id, *(config.never_ids or [])}
    worth = foresight.worth(batch, frozen) if most else torch.zeros(ids.shape)
    words = torch.full((len(ids), most), config.pad_id)
    keep = torch.zeros(words.shape, dtype=torch.bool)
    chosen = []
    for row, context in enumerate(contexts):
        told = never | {*last.ids[row].tolist(), *after.ids[row].tolist()}
        pairs = _chosen(context, worth[row, -len(context) :], told, most)
        words[row, : len(pairs)] = torch.tensor([token for token, _ in pairs], dtype=torch.long)
        keep[row, : len(pairs)] = True
        chosen.append(pairs)
    quoted = joined(packed(words, keep, config.pad_id), last, config.pad_id)
    texts = joined(quoted, after, config.pad_id)
    return Evidence(
        Words(texts.ids[:, : config.code_length], texts.mask[:, : config.code_length]), quoted.lengths, chosen
    )


def _rests(frozen: FrozenLM, ids: Tensor, mask: Tensor, said: Tensor, there: Tensor) -> Tensor:
    """How much the log-probability of what was said, `[N, H]`, rests on each token's embedding, `[N, S]`."""
    columns = ids.shape[1]
    whole = {"input_ids": torch.cat([ids, said], dim=1), "attention_mask": torch.cat([mask, there], dim=1)}
    clean = frozen.read(whole, "embed")["embed"].float()
    kept = mask.to(clean).unsqueeze(2)
    mean = (clean[:, :columns] * kept).sum(1, keepdim=True) / kept.sum(1, keepdim=True)
    own = clean[:, :columns].clone().requires_grad_(True)
    with torch.enable_grad():
        written = Edit("embed", torch.cat([own, clean[:, columns:]], dim=1), positions=None)
        logits = frozen.logits(whole, written, keep=said.shape[1] + 1)[:, :-1].float()
        chance = log_probability_of(logits, said.to(logits.device)) * there.to(logits)
        (gradient,) = torch.autograd.grad(chance.sum(), own)
    return ((clean[:, :columns] - mean) * gradient * kept).sum(2).abs().cpu()


def _chosen(context: Tensor, worth: Tensor, never: set[int], most: int) -> list[tuple[int, float]]:
    """The words that are worth most, in the order of the context, each with its worth: the sum over all places where
    the word stands."""
    found: dict[int, float] = {}
    for token, nats in zip(context[:-1].tolist(), worth[:-1].tolist(), strict=True):
        if token not in never:
            found[token] = found.get(token, 0.0) + nats
    best = sorted(found.items(), key=lambda pair: -pair[1])[:most]
    order = context.tolist()
    return sorted((pair for pair in best if pair[1] >= LEAST_CHANGE), key=lambda pair: order.index(pair[0]))
