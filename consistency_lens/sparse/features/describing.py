"""From documents to `FeatureContexts`: gather, label, and read out what each feature writes.

Shapes: K features, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from ...errors import BadInput
from .contexts import SCHEMA, FeatureContexts, words_of
from .gathering import BEFORE, SHOWN, Gathered, Layer, gather
from .keeping import ABSENT
from .labelling import ENOUGH, Label, labels_of, of_others
from .logit_effect import effects

if TYPE_CHECKING:
    from ..modeling import CrosslayerTranscoder

LOGITS = 10  # tokens that a feature makes likelier, and as many that it makes less likely
Words = Callable[[int], str]


@torch.no_grad()
def describe_features(
    lens: CrosslayerTranscoder, batches: Iterable[Mapping[str, Any]], split: str = "train", shown: int = SHOWN
) -> FeatureContexts:
    """Contexts, label and direct effect of every feature; the lens then has them as `lens.contexts`.

    Args:
        lens: with its model.
        batches: documents that the model reads, once: `input_ids`, `attention_mask`, `doc_id`.
        split: which documents these are, for people.
        shown: contexts of each feature.
    """
    frozen, config = lens.reader, lens.config
    gathered = gather(lens, batches, shown)
    if not gathered.tokens:
        raise BadInput("documents", 0, "Give documents of at least two tokens.")
    words = words_of(frozen.tokenizer.decode)
    parts: list[pa.Table] = []
    scores, others = [], []
    for index, layer in enumerate(gathered.found):
        labels = labels_of(layer, gathered.occurrences)
        scores += [label.score for label, times in zip(labels, layer.count, strict=True) if times >= ENOUGH]
        others += of_others(layer, gathered.occurrences, labels).tolist()
        parts.append(_table(lens, index, layer, labels, gathered, words))
    about = {
        "weights": lens.fingerprint(),
        "split": split,
        "tokens": gathered.tokens,
        "documents": gathered.documents,
        "often": len(scores),
        "median_score": float(np.median(scores)) if scores else 0.0,
        "median_of_others": float(np.median(others)) if others else 0.0,
    }
    lens.contexts = FeatureContexts(pa.concat_tables(parts), about, config.window, config.features)
    return lens.contexts


def in_words(label: Label, words: Words) -> str:
    """`“red”, “blue”`, `after “my name”`."""
    if not label.ids:
        return ""
    shown = ", ".join(f"“{words(token).strip() or words(token)}”" for token in label.ids)
    return shown if label.place == "at" else f"{label.place} {shown}"


def _table(
    lens: CrosslayerTranscoder, index: int, layer: Layer, labels: Sequence[Label], gathered: Gathered, words: Words
) -> pa.Table:
    count = len(labels)
    columns: dict[str, Any] = {
        "layer": np.full(count, lens.config.window[index]),
        "feature": np.arange(count),
        "active": layer.count,
        "density": layer.count / gathered.tokens,
        "mean": layer.total / np.maximum(layer.count, 1),
        "max": np.where(layer.top.there[:, 0], layer.top.keys[:, 0], 0.0),
        "label": [in_words(label, words) for label in labels],
        "score": [label.score for label in labels],
        "precision": [label.precision for label in labels],
        "recall": [label.recall for label in labels],
        **_read_out(lens, index, words),
        "sample": [_sample(layer, feature) for feature in range(count)],
        "contexts": [_contexts(layer, feature, words) for feature in range(count)],
    }
    return pa.table({name: pa.array(columns[name], SCHEMA.field(name).type) for name in SCHEMA.names}, SCHEMA)


def _read_out(lens: CrosslayerTranscoder, index: int, words: Words) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {"promotes": [], "suppresses": [], "writes": []}
    for lengths, logits in effects(lens, index):
        found["writes"] += lengths.tolist()
        count = min(LOGITS, logits.shape[1])
        for name, largest in (("promotes", True), ("suppresses", False)):
            values, tokens = logits.topk(count, dim=1, largest=largest)
            found[name] += [_side(*row, words) for row in zip(tokens.tolist(), values.tolist(), strict=True)]
    return found


def _side(tokens: Sequence[int], values: Sequence[float], words: Words) -> list[dict[str, Any]]:
    return [{"token": words(token), "logit": value} for token, value in zip(tokens, values, strict=True)]


def _sample(layer: Layer, feature: int) -> list[float]:
    """Activations at the tokens that were drawn, the largest first."""
    there = layer.drawn.there[feature]
    return sorted(layer.drawn.values[feature][there][:, 1].tolist(), reverse=True)


def _contexts(layer: Layer, feature: int, words: Words) -> list[dict[str, Any]]:
    kept, found = layer.top, []
    for slot in range(int(kept.there[feature].sum())):
        inside = kept.ids[feature, slot] != ABSENT
        found.append(
            {
                "doc_id": int(kept.documents[feature, slot]),
                "position": int(kept.positions[feature, slot]),
                "value": float(kept.keys[feature, slot]),
                "at": int(inside[:BEFORE].sum()),
                "tokens": [words(token) for token in kept.ids[feature, slot][inside].tolist()],
                "values": kept.values[feature, slot][inside].tolist(),
            }
        )
    return found
