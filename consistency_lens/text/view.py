"""What the explorer shows of a text lens: its words from near, how sure they are, and what else would have done.

Shapes: S tokens of the text, N samples, V vocabulary, d hidden size.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..base.comparing import Applied, apply_lens, beside
from ..base.comparing.rows import of_vectors
from ..base.explaining import read_tokens
from ..base.viewing import Amounts, Bars, Figures, Grid, LensView, Near, Spelled, nats
from ..errors import BadInput
from ..frozen import Edit
from .layers import SITE
from .modeling import ConsistencyLens

SAMPLES = 8
TOP = 5
AROUND = 3  # tokens on either side whose layers are shown beside those of a token
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
        kl: from what the frozen model predicts next to what it says with the restored activation in place, in nats.
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

    def near(self) -> Near:
        """The same as parts of a page."""
        facts = [
            ("KL", nats(self.kl), "nats between what the model says next and what it says after the swap"),
            ("cosine", f"{self.cosine:.3f}", "of the restored activation and the real one"),
            ("agreement", f"{self.agreement:.0%}", "of these words are in another sample, on average"),
        ]
        samples = [(s.text, f"{s.times} ×", f"{s.probability:.2f}", nats(s.kl)) for s in self.samples]
        before, after = ([(token, chances[side]) for token, *chances in self.bars] for side in (0, 1))
        parts = [
            Spelled(items=self.words),
            Figures(items=facts),
            Bars("What the model says next", before, after, ("by itself", "after the swap")),
            Amounts("In its place, KL in nats", [("the lens", self.kl), *self.controls]),
            Grid("How sure the words are", ["drawn again", "times", "per token", "KL"], samples),
        ]
        return Near("Token", self.position, self.token, parts)


class TextView(LensView):
    lens: ConsistencyLens
    speaks: ClassVar[bool] = True

    def about(self) -> str:
        """What is seen here."""
        sites = self.lens.config.sites or []
        which = f" What is shown of a text is read at {sites[-1]}; a token from near, at each." if sites[1:] else ""
        return (
            f"The lens says it in at most {self.lens.config.code_length} tokens of text. The judge is the model "
            f"itself, with what was rebuilt from these words in the thought's place.{which}"
        )

    def near(self, text: str, position: int) -> Near:
        """With a grid of tokens and layers, where the lens reads several sites."""
        found = look(self.lens, text, position).near()
        if len(self.lens.config.sites or []) == 1:
            return found
        return replace(found, parts=[*found.parts, self.grid(text, position)])

    def grid(self, text: str, position: int) -> Grid:
        """What the lens says of a token and of those round it, at each of its sites; behind it the KL in nats."""
        sites, there = self.lens.config.sites or [], self.positions(text)
        around = [p for p in range(position - AROUND, position + AROUND + 1) if p in there]
        said: dict[int, dict[str, str]] = {}
        for row in self.lens.explain(text, around, layers="all"):
            said.setdefault(row["position"], {"": f"{row['position']} {row['token']}"})
            said[row["position"]][row[SITE]] = f"{row['explanation']} · {nats(row['kl'])}"
        rows = [[cells[name] for name in ("", *sites)] for cells in said.values()]
        return Grid("What each layer says, and its KL", ["token", *sites], rows, numeric=len(sites) + 1)


@torch.no_grad()
def look(lens: ConsistencyLens, text: str, position: int, seed: int = 0) -> Look:
    """What the lens says of one token, how sure it is, and what else would have done.

    Args:
        lens: with its frozen model.
        text: what the frozen model reads.
        position: the token.
        seed: of the samples.
    """
    frozen, ids = read_tokens(lens, text)
    site, length = (lens.config.sites or [])[lens.looks_at], ids.shape[1]
    if not 1 <= position < length:
        raise BadInput("position", position, f"The text has the tokens 1 to {length - 1}.")
    read = lens.contexts_of([text], [range(1, length)])["activations"][site]
    own, context = read[position - 1 : position], ids[:, : position + 1]
    batch = {"input_ids": context, "attention_mask": torch.ones_like(context), "activations": {site: own}}
    applied = apply_lens(lens, frozen, batch)
    likeliest: Any = applied.code
    drawn: Any = lens.compress({"activations": {site: own.expand(SAMPLES, -1)}}, seed=seed)
    first, others = _spelled(lens, own, likeliest), _spelled(lens, own.expand(SAMPLES, -1), drawn)
    kls = _kl(applied, lens.restore(drawn, batch), SAMPLES)
    times = Counter(text for text, _, _ in others)
    samples = {text: Sample(text, times[text], p, kl) for (text, _, p), kl in zip(others, kls, strict=True)}
    said = likeliest.ids[0, : int(likeliest.lengths[0])].tolist()
    shared = [
        len(set(said) & set(row[: int(n)].tolist())) / max(1, len(set(said)))
        for row, n in zip(drawn.ids, drawn.lengths, strict=True)
    ]
    before, after = beside(frozen.tokenizer, applied.comparison.clean[0, 0], applied.edited[0, 0], TOP)
    return Look(
        position=position,
        token=frozen.tokenizer.decode(ids[0, position]),
        explanation=first[0][0],
        words=first[0][1],
        kl=float(applied.kl),
        cosine=of_vectors(applied.edits, batch)["cosine"][0],
        bars=[(token, p, q) for (token, p), (_, q) in zip(before, after, strict=True)],
        samples=sorted(samples.values(), key=lambda sample: (-sample.times, -sample.probability)),
        agreement=sum(shared) / len(shared),
        controls=_controls(lens, applied, read, context[0]),
    )


def _controls(lens: ConsistencyLens, applied: Applied, read: Tensor, context: Tensor) -> list[tuple[str, float]]:
    """What knows nothing of this activation, or only what stands before it, and the KL that it leads to.

    Args:
        lens: with its frozen model.
        applied: the lens at this token.
        read: activations of the whole text but its first token, `[S - 1, d]`.
        context: ids of the text up to this token.
    """
    site = (lens.config.sites or [])[lens.looks_at]
    position, count = len(context) - 1, len(read)
    other = (position - 1 + count // 2) % count + 1  # half a text away
    code = lens.compress({"activations": {site: read[other - 1 : other]}})
    tail = lens.tokenizer.decode(context[1:][-lens.config.code_length :], skip_special_tokens=True)
    texts = {
        f"the words of token {other}": str(lens.describe(code)[0]["explanation"]),
        f"the last {lens.config.code_length} tokens before it, read by the encoder": tail,
        "no words at all": "",
    }
    written = lens.restore(lens.reread(list(texts.values())), {})
    mean = Edit(site, read.mean(0, keepdim=True))
    kl = [*_kl(applied, [mean], 1), *_kl(applied, written, len(texts))]
    return list(zip(["the mean activation of this text", *texts], kl, strict=True))


def _kl(applied: Applied, edits: list[Edit], rows: int) -> list[float]:
    """KL from what is predicted untouched to what other edits, of so many rows, lead to, in nats."""
    comparison = applied.comparison.repeat(rows)
    return comparison.kl(comparison.edited(edits)).tolist()


def _spelled(
    lens: ConsistencyLens, activations: Tensor, code: Any
) -> list[tuple[str, list[tuple[str, float]], float]]:
    """Each text, its tokens with their probabilities under the decoder, and their geometric mean."""
    logits = lens.decoder.score(activations, code, lens.looks_at)
    chances = logits.float().log_softmax(-1).gather(-1, code.ids.unsqueeze(-1)).squeeze(-1)
    found = []
    for row, said in enumerate(lens.describe(code)):
        kept = slice(0, int(code.lengths[row]))
        tokens = [lens.tokenizer.decode(i, clean_up_tokenization_spaces=False) for i in code.ids[row, kept].tolist()]
        mean = float(chances[row, kept].mean().exp()) if tokens else 0.0
        found.append((said["explanation"], list(zip(tokens, chances[row, kept].exp().tolist(), strict=True)), mean))
    return found
