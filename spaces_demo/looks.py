"""What is computed for people: a whole text token by token, and one token from near.

Shapes: S tokens of the text, N samples, V vocabulary, d hidden size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from consistency_lens import BadInput, ConsistencyLens, Edit, Prefix

CHUNK = 32  # tokens between two signs of life
SAMPLES = 8
TOP = 5

Row = dict[str, Any]
Chances = list[tuple[str, float]]  # tokens with their probabilities


@dataclass(frozen=True)
class Sample:
    """A text that the decoder might as well have written: how often it did, its mean probability per token, and the
    KL that it leads to."""

    text: str
    times: int
    probability: float
    kl: float


@dataclass(frozen=True)
class Look:
    """One token from near.

    Args:
        position, token: which one.
        explanation: the likeliest words; `words` are its tokens, each with the probability that the decoder gave it.
        kl: from what the subject says next to what it says with the restored activation in place, in nats.
        cosine: of the restored activation and the real one.
        bars: likeliest next tokens of either side, with both probabilities.
        samples: drawn from the decoder.
        agreement: mean share of tokens that a sample has in common with the explanation.
        controls: what else was put in the activation's place, and the KL that led to.
    """

    position: int
    token: str
    explanation: str
    words: list[tuple[str, float]]
    kl: float
    cosine: float
    bars: list[tuple[str, float, float]]
    samples: list[Sample]
    agreement: float
    controls: list[tuple[str, float]]


def count_tokens(lens: ConsistencyLens, text: str) -> int:
    assert lens.subject is not None
    return len(lens.subject.tokenizer(text)["input_ids"])


def scan(lens: ConsistencyLens, text: str) -> Iterator[tuple[list[Row], int]]:
    """The rows so far and how many there will be, again and again until all are there."""
    length = count_tokens(lens, text)
    if length < 2:
        raise BadInput("text", text, "Give one more word: the first token has nothing before it to be read from.")
    rows: list[Row] = []
    for first in range(1, length, CHUNK):
        rows = rows + lens.explain(text, range(first, min(first + CHUNK, length)))
        yield rows, length - 1


@torch.no_grad()
def look(lens: ConsistencyLens, text: str, position: int, seed: int = 0) -> Look:
    """What the lens says of one token, how sure it is, and what else would have done."""
    frozen, (site,) = lens.subject, lens.config.sites or [""]
    assert frozen is not None
    ids = frozen.tokenizer(text, return_tensors="pt")["input_ids"].to(frozen.device)
    length = ids.shape[1]
    if not 1 <= position < length:
        raise BadInput("position", position, f"The text has the tokens 1 to {length - 1}.")
    read = frozen.read({"input_ids": ids}, site)[site][0]
    prefix = frozen.prefix({"input_ids": ids[:, : position + 1]})
    clean = prefix.logits()[:, 0]

    # The likeliest words first, then the samples: one batch for all that follows.
    own = read[position : position + 1]
    likeliest, drawn = (
        lens.compress({"activations": {site: own.expand(n, -1)}}, seed=s) for n, s in ((1, None), (SAMPLES, seed))
    )
    batch = {"activations": {site: own}}
    edits = lens.restore(likeliest, batch)
    edited = prefix.logits(edits)[:, 0]
    first, others = _spelled(lens, own, likeliest), _spelled(lens, own.expand(SAMPLES, -1), drawn)
    kls = _kl(clean, prefix.repeat(SAMPLES).logits(lens.restore(drawn, batch))[:, 0])
    times = Counter(text for text, _, _ in others)
    samples = {text: Sample(text, times[text], p, kl) for (text, _, p), kl in zip(others, kls, strict=True)}
    said = likeliest.ids[0, : int(likeliest.lengths[0])].tolist()
    shared = [
        len(set(said) & set(row[: int(n)].tolist())) / max(1, len(set(said)))
        for row, n in zip(drawn.ids, drawn.lengths, strict=True)
    ]
    return Look(
        position=position,
        token=frozen.tokenizer.decode(ids[0, position]),
        explanation=first[0][0],
        words=first[0][1],
        kl=_kl(clean, edited)[0],
        cosine=float(F.cosine_similarity(edits[0].value.float(), own.float())),
        bars=_bars(frozen.tokenizer, clean[0], edited[0]),
        samples=sorted(samples.values(), key=lambda sample: (-sample.times, -sample.probability)),
        agreement=sum(shared) / len(shared),
        controls=_controls(lens, ids[0], read, position, prefix, clean),
    )


def _controls(
    lens: ConsistencyLens, ids: Tensor, read: Tensor, position: int, prefix: Prefix, clean: Tensor
) -> list[tuple[str, float]]:
    """What knows nothing of this activation, or only what stands before it, and the KL that it leads to."""
    assert lens.subject is not None
    (site,) = lens.config.sites or [""]
    tokenizer = lens.subject.tokenizer
    other = (position - 1 + (len(ids) - 1) // 2) % (len(ids) - 1) + 1  # half a text away
    code = lens.compress({"activations": {site: read[other : other + 1]}})
    tail = tokenizer.decode(ids[1 : position + 1][-lens.config.code_length :], skip_special_tokens=True)
    texts = {
        f"the words of token {other}": str(lens.describe(code)[0]["explanation"]),
        f"the last {lens.config.code_length} tokens before it, read by the encoder": tail,
        "no words at all": "",
    }
    (written,) = lens.restore(lens.reread(list(texts.values())), {})
    mean = Edit(site, read[1:].mean(0, keepdim=True))
    kl = _kl(clean, prefix.logits(mean)[:, 0]) + _kl(clean, prefix.repeat(len(texts)).logits(written)[:, 0])
    return list(zip(["the mean activation of this text", *texts], kl, strict=True))


def _spelled(lens: ConsistencyLens, activations: Tensor, code: Any) -> list[tuple[str, Chances, float]]:
    """Each text, its tokens with their probabilities under the decoder, and their geometric mean."""
    logits = lens.decoder.score(activations, code)
    chances = logits.float().log_softmax(-1).gather(-1, code.ids.unsqueeze(-1)).squeeze(-1)
    found = []
    for row, said in enumerate(lens.describe(code)):
        kept = slice(0, int(code.lengths[row]))
        tokens = [lens.tokenizer.decode(i, clean_up_tokenization_spaces=False) for i in code.ids[row, kept].tolist()]
        mean = float(chances[row, kept].mean().exp()) if tokens else 0.0
        found.append((said["explanation"], list(zip(tokens, chances[row, kept].exp().tolist(), strict=True)), mean))
    return found


def _bars(tokenizer: Any, clean: Tensor, edited: Tensor) -> list[tuple[str, float, float]]:
    """The likeliest of either side, by the larger of their probabilities."""
    before, after = clean.float().softmax(-1), edited.float().softmax(-1)
    ids = dict.fromkeys([*before.topk(TOP).indices.tolist(), *after.topk(TOP).indices.tolist()])
    ordered = sorted(ids, key=lambda i: -max(float(before[i]), float(after[i])))[: TOP + 1]
    return [(tokenizer.decode([i]), float(before[i]), float(after[i])) for i in ordered]


def paired(before: Chances, after: Chances) -> list[tuple[str, float, float]]:
    """Two lists of likeliest tokens as one; what is missing from a list is below all of it, and counts as 0."""
    sides = dict(before), dict(after)
    names = sorted({**sides[0], **sides[1]}, key=lambda t: -max(sides[0].get(t, 0.0), sides[1].get(t, 0.0)))
    return [(name, sides[0].get(name, 0.0), sides[1].get(name, 0.0)) for name in names]


def _kl(clean: Tensor, edited: Tensor) -> list[float]:
    """KL from one to the other in nats, a value per row."""
    p, q = clean.float().log_softmax(-1), edited.float().log_softmax(-1)
    return F.kl_div(q, p.expand_as(q), log_target=True, reduction="none").sum(-1).clamp_min(0).tolist()
