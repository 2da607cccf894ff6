"""`evidence` of what the model will need later: the words of a context on which what it may say far behind P rests.

What comes next often needs little of what P holds. So the model goes on behind P several times, by itself. A word of
the context is worth the change of the log-probability of what was said, to first order, where the word's embedding
gives way to the mean embedding of its context. Nothing is hidden from attention: layers with a window and flash
attention can be asked too, and a word counts as well where it reaches P through other words alone.

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
from .evidence import LEAST_CHANGE, Evidence, in_their_order, room_of, weightiest
from .warm_start import NO_DOUBT, Doubt, joined, packed, said_after, tail_of

GENERATED = 1 << 15  # tokens of the contexts and of what is said that one pass keeps keys and values of
GRAPH, NUMBERS = 1 << 30, 20  # numbers that a pass with gradient keeps; of a token, in each layer, times the width


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

    def require_room(self, longest: int, room: int) -> None:
        """Raise where a model that takes `room` tokens cannot go on so far behind a context of `longest`."""
        if longest + self.tokens > room:
            why = f"a context has {longest} tokens, and the model takes {room}"
            fix = (
                f"Use at most {room - longest}." if room > longest else "Use 0, or extract with a shorter max_length."
            )
            raise BadInput("warm_foresight", self.tokens, fix, why)

    def worth(self, batch: dict[str, Tensor], frozen: FrozenLM) -> Tensor:
        """What each token of the contexts is worth, `[N, S]`, in nats of a whole continuation, as the mean of the
        samples.

        What a row's samples say is a function of its context and of the kind of device alone, whatever it runs with.

        Args:
            batch: `input_ids [N, S]` and `attention_mask [N, S]`, padded on the left.
            frozen: the model.
        """
        ids, mask = batch["input_ids"].cpu(), batch["attention_mask"].cpu()
        width, total = ids.shape[1], ids.shape[1] + self.tokens
        self.require_room(width, frozen.max_length)
        kept = NUMBERS * frozen.num_layers * frozen.hidden_size * total + self.tokens * frozen.vocab_size
        worth = torch.zeros(ids.shape)
        for rows in torch.arange(len(ids)).split(max(1, GENERATED // total)):
            some = {"input_ids": ids[rows], "attention_mask": mask[rows]}
            numbers = [row_number(own[there.bool()]) for own, there in zip(*some.values(), strict=True)]
            for seed in range(self.samples):
                said = frozen.generate(some, rows=numbers, max_new_tokens=self.tokens, do_sample=True, seed=seed)
                for part in torch.arange(len(rows)).split(max(1, GRAPH // kept)):
                    found = _rests(frozen, ids[rows[part]], mask[rows[part]], said.ids[part], said.mask[part])
                    worth[rows[part]] += found / self.samples
        return worth


def row_number(context: Tensor) -> int:
    """What the draws behind a context depend on: its tokens."""
    return zlib.crc32(context.long().numpy().tobytes())


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
        best = weightiest(context, worth[row, -len(context) :].tolist(), told, most)
        pairs = in_their_order(context, best, LEAST_CHANGE)
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
    columns, said, there = ids.shape[1], said.cpu(), there.cpu()
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
