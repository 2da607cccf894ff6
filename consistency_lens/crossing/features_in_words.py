"""A feature of a transcoder, as a lens in words explains it: what it writes, and the activations where it is active.

Shapes: B tokens, n targets of a feature, d hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..base.comparing import compare_vectors
from ..errors import BadInput
from ..frozen.texts import token_ids
from ..sparse.features.logit_effect import written_by
from .together import each_once, layer_behind, require_one_model

if TYPE_CHECKING:
    from ..base.modeling import LensModel
    from ..sparse.modeling import CrosslayerTranscoder

CONTEXTS = 5
SHOWN = 12  # tokens of a context up to the one that is explained


@dataclass(frozen=True)
class FeatureInWords:
    """What a lens in words says of one feature.

    Args:
        layer, feature: which one.
        written: the explanation of what the feature writes to the stream, alone and as long as an activation.
        cosine: between that direction and what the words restore: how much of it they hold.
        opposite: the explanation of the same direction turned round, which no activation of the feature writes.
        contexts: one row per text in which the feature is active, the strongest first: `text` (its number), the
            `position`, the `value` of the feature, the `context` (the last tokens up to there), and the `explanation`
            and `kl` of the whole activation.
    """

    layer: int
    feature: int
    written: str
    cosine: float
    opposite: str
    contexts: list[dict[str, Any]]


@torch.no_grad()
def words_of_feature(
    words: LensModel,
    transcoder: CrosslayerTranscoder,
    layer: int,
    feature: int,
    texts: Sequence[str] = (),
    contexts: int = CONTEXTS,
) -> FeatureInWords:
    """Explain a feature by a lens in words of the same model.

    Args:
        words: the lens in words, at a site of the residual stream.
        transcoder: whose feature it is. Of what it writes, the targets up to the site of `words` count: what it writes
            further up is not in that stream.
        layer, feature: which one.
        texts: where to look for tokens at which the feature is active; the strongest of each text is explained, of
            equal texts once.
        contexts: so many of them at most.
    """
    frozen, site = require_one_model(words, transcoder), words.config.only_site
    window = list(transcoder.config.window)
    if layer not in window:
        raise BadInput("layer", layer, f"The lens has features in layers {window}.")
    if not 0 <= feature < transcoder.config.features:
        fix = f"Each layer has {transcoder.config.features}: use 0 to {transcoder.config.features - 1}."
        raise BadInput("feature", feature, fix)
    direction = _direction(transcoder, window.index(layer), feature, layer_behind(site, frozen))
    if direction is None:
        fix = f"Use a feature of a layer up to {layer_behind(site, frozen)}, or a lens in words that reads further up."
        raise BadInput("layer", layer, fix, why=f"it writes above {site}, where the lens in words reads")
    size = words.config.activation_norm / direction.norm().clamp_min(1e-12)
    both = torch.stack([direction * size, -direction * size]).to(frozen.device)
    batch = {"activations": {site: both}}
    code = words.compress(batch)
    (edit,) = words.restore(code, batch)
    assert isinstance(edit.value, Tensor)
    said = [str(row["explanation"]) for row in words.describe(code)]
    cosine = float(compare_vectors(edit.value, both)["cosine"][0])
    found = _strongest(transcoder, layer, feature, texts)[:contexts]
    return FeatureInWords(layer, feature, said[0], cosine, said[1], _explained(words, texts, found))


def _direction(transcoder: CrosslayerTranscoder, index: int, feature: int, behind: int) -> Tensor | None:
    """What one unit of the feature adds to the stream behind a layer, `[d]`; None where it adds nothing there."""
    written = written_by(transcoder, index, torch.tensor([feature], device=transcoder.device))[0]
    targets = list(transcoder.config.window)[index : index + len(written)]
    count = sum(target <= behind for target in targets)
    return written[:count].sum(0).float() if count else None


def _strongest(
    transcoder: CrosslayerTranscoder, layer: int, feature: int, texts: Sequence[str]
) -> list[tuple[float, int, int]]:
    """Value, text and token at which the feature is strongest in each text, the strongest first; a first token, whose
    values the transcoder does not replace, is passed over."""
    found = []
    for text, number in each_once(texts).items():
        rows = transcoder.features(text, top=transcoder.config.features * len(transcoder.config.window))
        values = [
            (value, -row["position"])
            for row in rows
            for at, which, value in row["features"]
            if (at, which) == (layer, feature)
        ]
        if values:
            value, position = max(values)
            found.append((value, number, -position))
    return sorted(found, key=lambda each: (-each[0], each[1]))


def _explained(
    words: LensModel, texts: Sequence[str], found: Sequence[tuple[float, int, int]]
) -> list[dict[str, Any]]:
    """A row for each of these tokens."""
    if not found:
        return []
    assert words.subject is not None
    tokenizer = words.subject.tokenizer
    explained = words.explain_each([texts[text] for _, text, _ in found], [[position] for *_, position in found])
    rows = []
    for (value, text, position), (row,) in zip(found, explained, strict=True):
        ids = token_ids(words.subject, texts[text])[0][0][max(0, position + 1 - SHOWN) : position + 1]
        context = tokenizer.decode(ids, skip_special_tokens=True)
        shown = {"text": text, "position": position, "value": value, "context": context}
        rows.append({**shown, "explanation": row["explanation"], "kl": row["kl"]})
    return rows
