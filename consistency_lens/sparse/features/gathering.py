"""One pass over documents: in which contexts each feature is active, how often, and on which tokens.

Shapes: N tokens that are read (all but the first of each document), M tokens with those, F features, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...frozen import FrozenLM
from ..coding.documents import read_documents
from ..use.replacing import kept_columns
from .keeping import Active, Kept, Stretch, drawn

if TYPE_CHECKING:
    from ..modeling import CrosslayerTranscoder

SHOWN, DRAWN = 8, 48  # contexts that are shown, and tokens that labels are made of and scored on
BEFORE, AFTER = 12, 4  # tokens of a context


class Layer:
    """What is gathered of one layer.

    Args:
        features: F.
        shown: contexts that are kept of each.
    """

    def __init__(self, features: int, shown: int = SHOWN) -> None:
        self.top = Kept(features, shown, BEFORE, AFTER)
        self.drawn = Kept(features, DRAWN, 1, 1)  # a token with the one before and the one behind it
        self.count = np.zeros(features, np.int64)
        self.total = np.zeros(features, np.float64)

    def see(self, number: int, stretch: Stretch, active: Active) -> None:
        self.count += np.bincount(active.features, minlength=len(self.count))
        self.total += np.bincount(active.features, active.values, minlength=len(self.count))
        self.top.see(stretch, active, active.values.astype(np.float64))
        self.drawn.see(stretch, active, drawn(number, stretch, active))


@dataclass
class Gathered:
    """What a pass has found.

    Args:
        found: of each chosen layer.
        occurrences: how often each token id was there, before, at and behind a token that was read: `[3, V]`.
        tokens, documents: how many were read.
    """

    found: list[Layer]
    occurrences: np.ndarray
    tokens: int = 0
    documents: int = 0


@torch.no_grad()
def gather(lens: CrosslayerTranscoder, batches: Iterable[Mapping[str, Any]], shown: int = SHOWN) -> Gathered:
    """Read documents with the lens's model, once.

    Args:
        lens: with its model.
        batches: `input_ids [B, S]`, `attention_mask [B, S]` and `doc_id [B]`.
        shown: contexts that are kept of each feature.
    """
    frozen, config = lens.reader, lens.config
    layers = [Layer(config.features, shown) for _ in config.window]
    found = Gathered(layers, np.zeros((3, frozen.vocab_size), np.int64))
    for batch in batches:
        code = lens.compress({"activations": read_documents(frozen, batch, config.read_sites)})
        stretch, read = stretch_of(frozen, batch)
        _count(found, stretch, read)
        for number, (layer, entries) in enumerate(zip(layers, code.entries, strict=True)):
            tokens, features, values = (x.cpu().numpy() for x in (entries.tokens, entries.features, entries.values))
            layer.see(number, stretch, Active(read[tokens], features, values.astype(np.float32)))
    return found


def stretch_of(frozen: FrozenLM, batch: Mapping[str, Any]) -> tuple[Stretch, np.ndarray]:
    """The tokens of a batch, and which of them a lens reads: places in the stretch, `[N]`."""
    ids = frozen.input_ids(batch).cpu()
    mask = batch.get("attention_mask")
    there = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.cpu().bool()
    positions = there.long().cumsum(1) - 1
    documents = batch["doc_id"].cpu()[:, None].expand_as(ids)
    stretch = Stretch(*(values[there].numpy() for values in (ids, documents, positions)))
    return stretch, (~kept_columns(batch, ids))[there].nonzero()[:, 0].numpy()


def _count(found: Gathered, stretch: Stretch, read: np.ndarray) -> None:
    vocabulary = found.occurrences.shape[1]
    for row, offset in enumerate((-1, 0, 1)):
        places = read + offset
        places = places[(places >= 0) & (places < len(stretch.ids))]
        same = stretch.documents[places] == stretch.documents[places - offset]
        found.occurrences[row] += np.bincount(stretch.ids[places[same]], minlength=vocabulary)
    found.tokens += len(read)
    found.documents += len(np.unique(stretch.documents))
