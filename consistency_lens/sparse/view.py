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

from ..base.comparing import WholePass, likeliest
from ..base.explaining import read_tokens
from ..base.viewing import Bars, Choice, Control, Figures, Grid, LensView, Near, Part, Slider, nats
from ..frozen import Edit
from ..objectives import kl_of
from .coding.code import SparseCode
from .modeling import CrosslayerTranscoder
from .use.explaining import explain_tokens
from .use.replacing import Factors

MOST = 24  # features with a slider
TOP = 6  # likeliest tokens
WORDS = 3  # that a feature makes likelier
CONTINUED = 12  # tokens
LOUDEST = 4.0  # times
_INSIDE = "inside"


@dataclass(frozen=True)
class ActiveFeature:
    """A feature that is active on a token.

    Args:
        layer, index: which one.
        value: how active it is.
        likelier: words whose logits it raises most, by what it writes to all its targets.
    """

    layer: int
    index: int
    value: float
    likelier: list[str]

    @property
    def name(self) -> str:
        return f"{self.layer}/{self.index}"


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

    def near(self, text: str, position: int) -> Near:
        self.require(text, position)
        (row,) = explain_tokens(self.lens, text, [position], TOP)
        facts = [
            ("KL", nats(row["kl"]), "nats between what the model says next by itself and with the lens in place"),
            ("active", f"{row['active']:,}", f"features on this token, in {len(self.lens.config.window)} layers"),
        ]
        bars = Bars("What the model says next", row["before"], row["after"], ("by itself", "with the lens in place"))
        code = self._code(text, position)
        cells = [[str(layer), str(len(own.features))] for layer, own in zip(code.window, code.entries, strict=True)]
        layers = Grid("Active features", ["layer", "how many"], cells)
        controls = self.controls(text, position)
        return Near(self.unit, position, row["token"], [Figures(items=facts), bars, layers], controls, "Predict")

    def controls(self, text: str, position: int) -> list[Control]:
        """A slider for each of the strongest features, and where the change is made."""
        options = [("model", "the model, the difference added"), ("lens", "the model with the lens in place")]
        where = Choice(_INSIDE, "Changed inside", "every token of the text but its first", "", "model", options)
        sliders = [
            Slider(
                feature.name,
                f"feature {feature.index}",
                f"value {feature.value:.2f}; makes likelier: {' '.join(feature.likelier)}",
                f"Layer {feature.layer}, times",
                value=1.0,
                high=LOUDEST,
                step=0.25,
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
            effects = logit_effects(self.lens, i, entries.features[best])
            for at, effect in zip(best.tolist(), effects, strict=True):
                words = [self.frozen.tokenizer.decode(w).strip() for w in effect.topk(WORDS).indices.tolist()]
                shown.append(ActiveFeature(layer, int(entries.features[at]), float(entries.values[at]), words))
        return shown

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
        likely = [likeliest(tokenizer, side[0], TOP) for side in (before, after)]
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


def _key(name: str) -> tuple[int, int]:
    layer, _, index = name.partition("/")
    return int(layer), int(index)


@torch.no_grad()
def logit_effects(lens: CrosslayerTranscoder, index: int, features: Tensor) -> Tensor:
    """What features of a chosen layer do to the logits directly: all that they write, through the unembedding alone,
    `[n, V]`, about the mean over the vocabulary.

    Args:
        lens: with its subject.
        index: which of the chosen layers.
        features: which of its features, `[n]`.
    """
    assert lens.subject is not None
    source, scale = lens.layers_in_order[index], lens.targets.standardiser.scale
    written = lens.targets.rows(index, source, features).unflatten(1, (source.reach, -1))
    total = (written * scale[index : index + source.reach]).sum(1)
    head = lens.subject.model.get_output_embeddings().weight
    effects = total.to(head.device, head.dtype) @ head.T
    return (effects - effects.mean(-1, keepdim=True)).float()
