"""What the explorer shows of a transcoder: the active features of a token, and what the model predicts when they are
turned up or off.

Shapes: S tokens of the text, n features, d hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..base.comparing import WholePass, beside
from ..base.explaining import read_tokens
from ..base.viewing import Bars, Choice, Control, Figures, Grid, LensView, Near, Part, Slider, nats
from ..frozen import Edit
from ..objectives import kl_of
from .coding.code import SparseCode
from .features.logit_effect import effects
from .modeling import CrosslayerTranscoder
from .use.explaining import explain_tokens
from .use.replacing import Factors

MOST = 24  # features with a slider
TOP = 6  # likeliest tokens
WORDS = 3  # that a feature makes likelier
AROUND = 6  # tokens before the one where it is most active, and half as many behind
CONTINUED = 12  # tokens
LOUDEST = 4.0  # times
_INSIDE = "inside"


@dataclass(frozen=True)
class ActiveFeature:
    """A feature that is active on a token.

    Args:
        layer, index: which one.
        value: how active it is.
        likelier: words whose logits it raises most by itself.
        label: what it stands for, where the lens knows that.
        context: where it is most active, the token between brackets, where the lens knows that.
    """

    layer: int
    index: int
    value: float
    likelier: list[str]
    label: str = ""
    context: str = ""

    @property
    def name(self) -> str:
        return f"{self.layer}/{self.index}"

    @property
    def said(self) -> str:
        """All that is known of it, in a line."""
        most = f"; most active at “{self.context}”" if self.context else ""
        return f"value {self.value:.2f}; makes likelier: {' '.join(self.likelier)}{most}"


class TranscoderView(LensView):
    lens: CrosslayerTranscoder
    whole: ClassVar[bool] = True  # one pass has all tokens

    def _read(self, text: str) -> dict[str, Tensor]:
        return {"input_ids": read_tokens(self.lens, text)[1]}

    def about(self) -> str:
        """One sentence of what is seen here."""
        layers = self.lens.config.window
        which = f"layer {layers[0]}" if len(layers) == 1 else f"layers {layers[0]} to {layers[-1]}"
        return (
            f"The lens says it in a few of {self.lens.config.features:,} features in each of {which}. The judge is "
            "the model itself, with what they write in the place of its MLPs."
        )

    def rows(self, text: str, positions: Sequence[int]) -> list[dict[str, Any]]:
        return explain_tokens(self.lens, text, positions)

    @torch.no_grad()
    def near(self, text: str, position: int) -> Near:
        self.require(text, position)
        batch, frozen = self._read(text), self.frozen
        code, comparison = self._code(text, position), WholePass.of(frozen, batch, torch.tensor([[position]]))
        after = comparison.edited(self.lens.replaced(batch))
        counts = [len(own.features) for own in code.entries]
        facts = [
            (
                "KL",
                nats(float(comparison.kl(after))),
                "nats between what the model says next by itself and with the lens in place",
            ),
            ("active", f"{sum(counts):,}", f"features on this token, in {len(self.lens.config.window)} layers"),
        ]
        likely = beside(frozen.tokenizer, comparison.clean[0, 0], after[0, 0], TOP)
        parts = [
            Figures(items=facts),
            Bars("What the model says next", *likely, ("by itself", "with the lens in place")),
            Grid(
                "Active features",
                ["layer", "how many"],
                [[str(n), str(c)] for n, c in zip(code.window, counts, strict=True)],
            ),
        ]
        token = frozen.tokenizer.decode(batch["input_ids"][0, position])
        return Near(self.unit, position, token, parts, self.controls(text, position), "Predict")

    def controls(self, text: str, position: int) -> list[Control]:
        """A slider for each of the strongest features, and where the change is made."""
        options = [("model", "the model itself"), ("lens", "the lens in place")]
        where = Choice(_INSIDE, "Changed inside", "every token of the text but its first", "", "model", options)
        sliders = [
            Slider(
                feature.name,
                f"{feature.index}{f': {feature.label}' if feature.label else ''}",
                feature.said,
                f"Features of layer {feature.layer}",
                value=1.0,
                high=LOUDEST,
                step=0.25,
                factor=True,
            )
            for feature in self.features(text, position)
        ]
        return [*sliders, where]

    @torch.no_grad()
    def features(self, text: str, position: int) -> list[ActiveFeature]:
        """The features of a token that write most, some of each layer, layer after layer."""
        code, norms = self._code(text, position), self.lens.norms()
        each, shown = max(1, MOST // len(code.window)), []
        for i, (layer, entries) in enumerate(zip(code.window, code.entries, strict=True)):
            written = entries.values * norms[i][entries.features]
            best = written.topk(min(each, len(written))).indices
            chosen = entries.features[best]
            raised: Any = torch.cat([logits for _, logits in effects(self.lens, i, chosen)]) if len(chosen) else []
            for at, logits in zip(best.tolist(), raised, strict=True):
                index, value = int(entries.features[at]), float(entries.values[at])
                words = [self.frozen.tokenizer.decode(word).strip() for word in logits.topk(WORDS).indices.tolist()]
                shown.append(ActiveFeature(layer, index, value, words, *self._known(layer, index)))
        return shown

    def _known(self, layer: int, index: int) -> tuple[str, str]:
        """Label and strongest context of a feature, where the lens brings them along."""
        if self.lens.contexts is None:
            return "", ""
        known = self.lens.contexts.of(layer, index)
        return known["label"], excerpt(known["contexts"][0]) if known["contexts"] else ""

    def _code(self, text: str, position: int) -> SparseCode:
        """The features of one token."""
        found = self.frozen.read(self._read(text), self.lens.config.read_sites)
        # All tokens but the first at once: a BatchTopK compares them.
        code: SparseCode = self.lens.compress({"activations": {site: values[0, 1:] for site, values in found.items()}})
        return code.take(torch.tensor([position - 1], device=self.lens.device))

    @torch.no_grad()
    def change(self, text: str, position: int, values: Mapping[str, Any]) -> list[Part]:
        """What the model predicts behind the token that is open, before and after, and how it goes on."""
        inside = values[_INSIDE]
        turned = {name: factor for name, factor in values.items() if name != _INSIDE and factor != 1.0}
        factors = {_key(name): factor for name, factor in turned.items()}
        ids = self._read(text)["input_ids"][:, : position + 1]
        batch, last = {"input_ids": ids}, torch.tensor([[position]])
        comparison = WholePass.of(self.frozen, batch, last)
        sides = [self._edits(batch, chosen, inside) for chosen in ({}, factors)]
        before, after = (comparison.edited(edits)[:, 0] for edits in sides)
        goes_on = [self._continued(batch, chosen, inside) for chosen in ({}, factors)]
        largest = int(before[0].argmax())
        chances = [float(side[0].float().softmax(-1)[largest]) for side in (before, after)]
        word = self.frozen.tokenizer.decode(largest).strip()
        facts = [
            ("KL", nats(float(kl_of(before, after)[0])), "nats between what is predicted before and after"),
            (f"“{word}”", f"{chances[0]:.2f} → {chances[1]:.2f}", "the likeliest next token, before and after"),
            ("turned", str(len(factors)), ", ".join(f"{name} × {f:g}" for name, f in turned.items()) or "nothing yet"),
        ]
        tokenizer = self.frozen.tokenizer
        likely = beside(tokenizer, before[0], after[0], TOP)
        return [
            Figures(items=facts),
            Bars("What is predicted next", *likely),
            Grid("How it goes on", ["", ""], [["before", goes_on[0]], ["after", goes_on[1]]], numeric=2),
        ]

    def _edits(self, batch: Mapping[str, Tensor], factors: Factors, inside: str, first: bool = True) -> list[Edit]:
        if inside == "lens":
            return self.lens.replaced(batch, factors, first)
        return self.lens.changed(factors, batch, first) if factors else []

    def _continued(self, batch: Mapping[str, Tensor], factors: Factors, inside: str) -> str:
        room = self.frozen.max_length - batch["input_ids"].shape[1]
        if room < 1:
            return ""
        edits, later = (self._edits(batch, factors, inside, first) for first in (True, False))
        made = self.frozen.generate(batch, edits, later, max_new_tokens=min(CONTINUED, room))
        return made.texts(self.frozen.tokenizer)[0]


def excerpt(context: Mapping[str, Any]) -> str:
    """The tokens round the one where a feature is active, which stands between brackets."""
    tokens, at = [token.strip() for token in context["tokens"]], context["at"]
    return " ".join([*tokens[max(0, at - AROUND) : at], f"[{tokens[at]}]", *tokens[at + 1 : at + 1 + AROUND // 2]])


def _key(name: str) -> tuple[int, int]:
    layer, _, index = name.partition("/")
    return int(layer), int(index)
