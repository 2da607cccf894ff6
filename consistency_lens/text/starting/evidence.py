"""`evidence`: the words of a context without which the model would predict something else, and then what it predicts.

A word is hidden from the tokens that predict, P and what the model says behind it: their attention to it is masked, in
all layers. What it is worth is told to first order by the gradient of what they predict to that mask: a step towards
the mask takes a word's share of the attention and deals it out to the others. `exact` hides the words of which the
gradient says most, one by one, and takes the KL between what is predicted then and otherwise: slower, and what the
fast way is measured by (`agreement`). Rows of one document share its pass.

Shapes: B documents, R rows of each, K candidates, n predictions, S columns, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ...frozen import FrozenLM
from ...frozen.generation.branches import Branches
from ...objectives import kl_of
from ..configuration import ConsistencyLensConfig
from ..parts.generation import Words
from .warm_start import NO_DOUBT, Doubt, barred, packed

SPARE = 2  # candidates beyond the words that a text has room for
LEAST = 0.01  # nats: a word whose hiding costs less is no evidence
LEAST_CHANGE = (2 * LEAST) ** 0.5  # of the log-probability, to first order: a KL is about half of its square
TOKENS, LOGITS = 8_192, 1 << 27  # of one pass: tokens of documents, and numbers that the head gives


@dataclass(frozen=True)
class Evidence:
    """Texts that begin with evidence.

    Args:
        words: the texts.
        quoted: `[N]`, how many of a text's first tokens stand in the context, the token at P among them.
        worth: for each row its words with the nats that each is worth, in the order of the context: by how much the
            log-probability of a prediction changes to first order, or, `exact`, the KL; of `foreseen` texts, how much
            that of a whole continuation does.
    """

    words: Words
    quoted: Tensor
    worth: list[list[tuple[int, float]]]


def room_of(length: int, share: float) -> tuple[int, int]:
    """How many words of evidence a text of so many tokens holds at most, and how many tokens of what comes next:
    P's own stands between them."""
    words = min(max(0, length - 2), round(share * length))
    return words, max(1, length - 1 - words)


@torch.no_grad()
def evidence_of(
    contexts: Sequence[Tensor],
    config: ConsistencyLensConfig,
    frozen: FrozenLM,
    share: float = 0.5,
    doubt: Doubt = NO_DOUBT,
    exact: bool = False,
) -> Evidence:
    """The text of each context.

    Args:
        contexts: ids up to P, one tensor for each row. One that begins another one of them shares its pass.
        config: of the lens.
        frozen: the model.
        share: of the tokens of a text, for words of the context.
        doubt: what becomes of tokens in what the model says that it is not sure of.
        exact: hide words one by one.
    """
    words, ahead = room_of(config.code_length, share)
    ids = torch.full((len(contexts), words + 1 + ahead), config.pad_id)
    keep = torch.zeros(ids.shape, dtype=torch.bool)
    worth: list[list[tuple[int, float]]] = [[] for _ in contexts]
    candidates = words + SPARE if exact and words else 0
    for rows in _together(contexts, frozen.vocab_size, ahead, candidates):
        group = _Group(contexts, rows, config, frozen)
        said, sure = group.say(ahead)
        flat = said.flatten(0, 1)
        parts = doubt.of(flat, sure.flatten(0, 1), barred(flat, config).cumsum(1) == 0)
        text, kept = (part.view(said.shape) for part in parts)
        found = group.hide(candidates, words) if candidates else group.lean_on(words)
        for row, (document, place) in group.places.items():
            worth[row] = found.get(row, [])
            for k, (token, _) in enumerate(worth[row]):
                ids[row, k], keep[row, k] = token, True
            last = contexts[row][-1]
            ids[row, words], keep[row, words] = last, not bool(barred(last, config))
            ids[row, words + 1 :], keep[row, words + 1 :] = text[document, place], kept[document, place]
    quoted = keep[:, : words + 1].sum(1)
    texts = packed(ids, keep, config.pad_id)
    return Evidence(Words(texts.ids[:, : config.code_length], texts.mask[:, : config.code_length]), quoted, worth)


def _together(contexts: Sequence[Tensor], vocabulary: int, ahead: int, candidates: int) -> Iterator[list[list[int]]]:
    """Rows by document, the longest context of each first; documents of about one length in one group."""
    order = sorted(range(len(contexts)), key=lambda i: contexts[i].numpy().tobytes())
    documents: list[list[int]] = []
    for row in reversed(order):  # a context that begins another one comes right behind it
        longest = contexts[documents[-1][0]] if documents else None
        own = contexts[row]
        if longest is not None and len(own) <= len(longest) and torch.equal(longest[: len(own)], own):
            documents[-1].append(row)
        else:
            documents.append([row])
    documents.sort(key=lambda rows: (len(contexts[rows[0]]), rows))
    group: list[list[int]] = []
    for rows in documents:
        most = max(len(each) for each in [*group, rows])
        tokens = (len(group) + 1) * len(contexts[rows[0]])
        logits = (len(group) + 1) * most * ahead * (1 + candidates) * vocabulary
        if group and (tokens > TOKENS or logits > LOGITS):
            yield group
            group = []
        group.append(rows)
    if group:
        yield group


class _Group:
    """Some documents that are read together, with the rows that end in each.

    Args:
        contexts: of all rows.
        rows: for each document the numbers of its rows, the longest first.
        config: of the lens.
        frozen: the model.
    """

    def __init__(
        self,
        contexts: Sequence[Tensor],
        rows: Sequence[Sequence[int]],
        config: ConsistencyLensConfig,
        frozen: FrozenLM,
    ) -> None:
        self.contexts, self.config, self.frozen = contexts, config, frozen
        self.places = {row: (b, r) for b, some in enumerate(rows) for r, row in enumerate(some)}
        self.size = (len(rows), max(map(len, rows)))
        self.ids = pad_sequence([contexts[some[0]] for some in rows], True, config.pad_id)
        self.p = torch.zeros(self.size, dtype=torch.long)
        for row, place in self.places.items():
            self.p[place] = len(contexts[row]) - 1
        self.last = self.ids.gather(1, self.p)
        self.before = torch.arange(self.ids.shape[1]) < self.p.unsqueeze(2)  # [B, R, S]: columns that lie before P
        self.read = Branches(frozen, self.ids)
        self.clean: list[Tensor] = []  # logits of each prediction, [B, R, V]
        self.said = torch.zeros(0)
        self.rests = torch.zeros(self.before.shape)  # how much the predictions rest on each column

    def say(self, length: int) -> tuple[Tensor, Tensor]:
        """What the model says behind P, `[B, R, n]`, and how sure it was; notes how much that rests on each column."""
        grown, (documents, rows) = self.read.copy(), self.size
        own = torch.eye(rows, dtype=torch.bool).expand(documents, rows, rows)
        seen, tokens, said, sure = self.before, self.last, [], []
        for step in range(length):
            seen = torch.cat([seen, own], dim=2)
            with torch.enable_grad():
                bias = torch.zeros(seen.shape, device=self.frozen.device, requires_grad=True)
                logits = grown.feed(tokens, self.p + step, seen, bias).float()
                best, tokens = logits.max(-1)
                chance = best - logits.logsumexp(-1)
                (gradient,) = torch.autograd.grad(chance.sum(), bias)
            self.rests += gradient[..., : self.ids.shape[1]].abs().cpu()
            self.clean.append(logits.detach())
            tokens = tokens.cpu()
            said.append(tokens)
            sure.append(chance.detach().exp().cpu())
        self.said = torch.stack(said, dim=2)
        return self.said, torch.stack(sure, dim=2)

    def lean_on(self, most: int) -> dict[int, list[tuple[int, float]]]:
        """Row -> the words that the predictions rest on most, in the order of the context, with how much: the change
        of a prediction's log-probability to first order."""
        return {
            row: self._best(row, [(token, weight / len(self.clean)) for token, weight in rests], most, LEAST_CHANGE)
            for row in self.places
            if (rests := self._candidates(row, most))
        }

    def hide(self, candidates: int, most: int) -> dict[int, list[tuple[int, float]]]:
        """Row -> the words that are worth most, in the order of the context, with what each is worth."""
        chosen = {row: [token for token, _ in self._candidates(row, candidates)] for row in self.places}
        (documents, rows), n, width = self.size, len(self.clean), self.ids.shape[1]
        branches, branch = candidates * n, torch.arange(candidates * n)
        seen = self.before.unsqueeze(2).expand(-1, -1, candidates, -1).clone()
        for row, tokens in chosen.items():
            b, r = self.places[row]
            for k, token in enumerate(tokens):
                seen[b, r, k] &= self.ids[b] != token
        # Tokens of one branch see the words that are left to it, and their own branch so far.
        visible = seen.unsqueeze(3).expand(-1, -1, -1, n, -1).reshape(documents, rows * branches, width)
        own = (branch.unsqueeze(1) // n == branch // n) & (branch.unsqueeze(1) >= branch)
        own = torch.block_diag(*[own.float()] * rows).bool().expand(documents, -1, -1)
        spoken = torch.cat([self.last.unsqueeze(2), self.said[..., : n - 1]], dim=2)  # [B, R, n]: what predicts
        ids = spoken.unsqueeze(2).expand(-1, -1, candidates, -1).reshape(documents, -1)
        positions = (self.p.unsqueeze(2) + torch.arange(n)).unsqueeze(2).expand(-1, -1, candidates, -1)
        logits = self.read.copy().feed(ids, positions.reshape(documents, -1), torch.cat([visible, own], dim=2))
        logits = logits.view(documents * rows, candidates, n, -1).flatten(0, 1)
        clean = torch.stack(self.clean, dim=2).flatten(0, 1)
        worth = kl_of(clean, logits).view(documents, rows, candidates).cpu()
        return {
            row: self._best(row, zip(tokens, worth[self.places[row]].tolist(), strict=False), most, LEAST)
            for row, tokens in chosen.items()
        }

    def _candidates(self, row: int, count: int) -> list[tuple[int, float]]:
        """The words that the predictions rest on most, without those that the text says anyway or may not hold."""
        b, r = self.places[row]
        never = {int(self.last[b, r]), *self.said[b, r].tolist(), self.config.stop_id, *(self.config.never_ids or [])}
        return weightiest(self.contexts[row], self.rests[b, r].tolist(), never, count)

    def _best(self, row: int, pairs: Iterable[tuple[int, float]], most: int, least: float) -> list[tuple[int, float]]:
        return in_their_order(self.contexts[row], sorted(pairs, key=lambda pair: -pair[1])[:most], least)


def weightiest(
    context: Tensor, weights: Sequence[float], never: Collection[int], count: int
) -> list[tuple[int, float]]:
    """The words of a context before P that weigh most, each with the sum over all places where it stands.

    Args:
        context: ids up to P.
        weights: of each of its tokens.
        never: words that are passed over.
        count: how many words at most.
    """
    found: dict[int, float] = {}
    for token, weight in zip(context[:-1].tolist(), weights, strict=False):
        if token not in never:
            found[token] = found.get(token, 0.0) + weight
    return sorted(found.items(), key=lambda pair: -pair[1])[:count]


def in_their_order(context: Tensor, pairs: Iterable[tuple[int, float]], least: float) -> list[tuple[int, float]]:
    """Those that are worth at least so much, in the order of the context."""
    order = context.tolist()
    return sorted((pair for pair in pairs if pair[1] >= least), key=lambda pair: order.index(pair[0]))


def agreement(fast: Evidence, exact: Evidence) -> float:
    """Of the words that hiding shows to be worth most, the share that the fast way names, too."""
    same = [({t for t, _ in a} & {t for t, _ in b}, b) for a, b in zip(fast.worth, exact.worth, strict=True)]
    return sum(len(both) for both, _ in same) / max(1, sum(len(words) for _, words in same))
