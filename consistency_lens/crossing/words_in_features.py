"""Which features of a transcoder survive an explanation in words: the model reads on behind the reconstruction.

Shapes: B tokens, d hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..base.explaining import ROWS, Positions, read_tokens, wanted_positions
from ..errors import BadInput
from ..frozen import FrozenLM
from .together import each_once, layer_behind, require_one_model

if TYPE_CHECKING:
    from ..base.modeling import LensModel
    from ..sparse.modeling import CrosslayerTranscoder

Values = dict[tuple[int, int], float]  # (layer, feature) -> its value


@dataclass(frozen=True)
class KeptFeatures:
    """What became of the features at one token when the words took the place of the activation.

    Args:
        text: number of the text; of equal ones the first.
        position: of the token in it.
        token: itself.
        explanation: the words.
        kept: share of the features' total value that is still there: `sum min(before, after) / sum before`, over
            features of the layers behind the site.
        control: the same with the words of another token in its place: what any words keep.
        features: one row per feature that was active, the strongest first: `layer`, `feature`, `label` (where the
            transcoder has labels), `before` and `after`.
        new: features that only the words brought, the strongest first, in the same form.
    """

    text: int
    position: int
    token: str
    explanation: str
    kept: float
    control: float
    features: list[dict[str, Any]]
    new: list[dict[str, Any]]


@torch.no_grad()
def features_kept(
    words: LensModel,
    transcoder: CrosslayerTranscoder,
    texts: str | Sequence[str],
    positions: Positions = None,
    top: int = 10,
    batch_size: int = ROWS,
) -> list[KeptFeatures]:
    """Decompose reconstructed activations: which features of later layers are as they were.

    The activation that the lens in words restores is put in its place at one token, the model goes on from there, and
    the transcoder reads what it then computes at that token in the layers behind the site.

    Args:
        words: the lens in words, at a site of the residual stream.
        transcoder: of the same model, with layers behind that site.
        texts: one or several. Equal ones are read once: the words of another token, by which the control reads, would
            be the same ones.
        positions: tokens of each text, as for `explain`, each once; at least two tokens in all: the control needs
            another one.
        top: features that are listed of each token; shares are over all of them.
        batch_size: tokens in one pass.
    """
    frozen, texts = require_one_model(words, transcoder), [texts] if isinstance(texts, str) else list(texts)
    behind = layer_behind(words.config.only_site, frozen)
    later = [layer for layer in transcoder.config.window if layer > behind]
    if not later:
        fix = f"Give a transcoder with layers above {behind}, or a lens in words that reads further down."
        raise BadInput(
            "transcoder", list(transcoder.config.window), fix, why="no layer of it reads what the words left"
        )
    ids = {number: read_tokens(words, text)[1][0] for text, number in each_once(texts).items()}
    every = [
        (text, position)
        for text, own in ids.items()
        for position in dict.fromkeys(wanted_positions(positions, len(own)))
    ]
    if len(every) < 2:
        raise BadInput("positions", len(every), "Name at least two tokens.", why="the control takes another's words")
    if batch_size < 2:
        raise BadInput("batch_size", batch_size, "Use at least 2.", why="the control takes another's words")
    parts = [every[first : first + batch_size] for first in range(0, len(every), batch_size)]
    if len(parts[-1]) == 1:  # which has no other beside it
        parts[-2:] = [parts[-2] + parts[-1]]
    found: list[KeptFeatures] = []
    for part in parts:
        batch = words.contexts_of([texts[text] for text, _ in part], [[position] for _, position in part])
        code = words.compress(batch)
        other = code.take(torch.arange(len(part)).roll(1))
        edits = [words.restore(each, batch) for each in (code, other)]
        clean, after, control = (_read(frozen, transcoder, batch, later, own) for own in ([], *edits))
        said = words.describe(code)
        for row, (text, position) in enumerate(part):
            before, now = clean[row], after[row]
            listed, brought = _listed(transcoder, before, now, top), _listed(transcoder, now, before, top, new=True)
            shares = _share(before, now), _share(before, control[row])
            token = frozen.tokenizer.decode(ids[text][position])
            explanation = str(said[row]["explanation"])
            found.append(KeptFeatures(text, position, token, explanation, *shares, listed, brought))
    return found


def _read(
    frozen: FrozenLM, transcoder: CrosslayerTranscoder, batch: Any, layers: Sequence[int], edits: Any
) -> list[Values]:
    """The features of some layers at the last column of each row, with edits in place."""
    last = torch.full((len(batch["input_ids"]), 1), batch["input_ids"].shape[1] - 1, device=frozen.device)
    contexts = {name: batch[name] for name in ("input_ids", "attention_mask")}
    read = frozen.read(contexts, transcoder.config.read_sites, last, edits)
    code = transcoder.compress({"activations": {site: value[:, 0] for site, value in read.items()}})
    rows = code.rows(top=transcoder.config.features * len(transcoder.config.window))
    return [{(at, which): value for at, which, value in row["features"] if at in layers} for row in rows]


def _share(before: Values, after: Values) -> float:
    """How much of the values is still there; 1 where there was nothing to lose."""
    total = sum(before.values())
    return sum(min(value, after.get(name, 0.0)) for name, value in before.items()) / total if total else 1.0


def _listed(
    transcoder: CrosslayerTranscoder, own: Values, others: Values, top: int, new: bool = False
) -> list[dict[str, Any]]:
    """Rows of features by their own values; the new ones are those that the other side lacks."""
    names = sorted((name for name in own if not new or name not in others), key=lambda name: (-own[name], name))
    rows = []
    for layer, feature in names[:top]:
        mine, theirs = own[layer, feature], others.get((layer, feature), 0.0)
        before, after = (theirs, mine) if new else (mine, theirs)
        label = "" if transcoder.contexts is None else transcoder.contexts.label(layer, feature)
        rows.append({"layer": layer, "feature": feature, "label": label, "before": before, "after": after})
    return rows
