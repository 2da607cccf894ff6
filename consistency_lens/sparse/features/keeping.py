"""`Kept`: of each feature the few entries with the largest keys, each with its window of text, in bounded memory.

Keys are activations (then these are the strongest contexts), or draws that are a function of document, position and
feature (then they are a uniform sample of all tokens on which the feature was active). What is kept does not depend on
the order or the size of batches.

Shapes: F features, K kept entries, W columns of a window, E entries of a batch, M tokens of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ABSENT = -1  # the id of a column of a window that lies outside of its document


@dataclass(frozen=True)
class Stretch:
    """The tokens of some documents, one after another, their first tokens too.

    Args:
        ids, documents, positions: of each token, `[M]`; `documents` are their numbers in the corpus.
    """

    ids: np.ndarray
    documents: np.ndarray
    positions: np.ndarray


@dataclass(frozen=True)
class Active:
    """The active features of one layer on a stretch.

    Args:
        tokens, features, values: of each entry, `[E]`; `tokens` are places in the stretch.
    """

    tokens: np.ndarray
    features: np.ndarray
    values: np.ndarray


class Kept:
    """
    Args:
        features: F.
        keep: K.
        before, after: how many columns of text a window has on each side of its token.
    """

    def __init__(self, features: int, keep: int, before: int, after: int) -> None:
        self.offsets = np.arange(-before, after + 1)
        shape, width = (features, keep), len(self.offsets)
        self.keys = np.full(shape, -np.inf)
        self.documents = np.zeros(shape, np.int64)
        self.positions = np.zeros(shape, np.int32)
        self.ids = np.full((*shape, width), ABSENT, np.int32)
        self.values = np.zeros((*shape, width), np.float32)

    @property
    def there(self) -> np.ndarray:
        """Which slots hold an entry, `[F, K]`."""
        return np.isfinite(self.keys)

    def see(self, stretch: Stretch, active: Active, keys: np.ndarray) -> None:
        """Take in the entries of one batch, with a key `[E]` for each."""
        rising = keys >= self.keys[active.features, -1]
        entries = rising.nonzero()[0]
        if not len(entries):
            return
        touched = np.unique(active.features[entries])
        keep = self.keys.shape[1]
        slots = np.arange(len(touched) * keep)
        old = self.there[touched].ravel()
        tokens = active.tokens[entries]
        # Old entries first, then new ones: (feature, key, document, position) of all of them.
        features = np.concatenate([np.repeat(touched, keep)[old], active.features[entries]])
        every = np.concatenate([self.keys[touched].ravel()[old], keys[entries]])
        documents = np.concatenate([self.documents[touched].ravel()[old], stretch.documents[tokens]])
        positions = np.concatenate([self.positions[touched].ravel()[old], stretch.positions[tokens]])
        order = np.lexsort((positions, documents, -every, features))
        ranks = np.arange(len(order)) - np.searchsorted(features[order], features[order], side="left")
        order, ranks = order[ranks < keep], ranks[ranks < keep]
        rows = features[order]
        was_old = order < old.sum()
        ids = np.full((len(order), len(self.offsets)), ABSENT, np.int32)
        values = np.zeros(ids.shape, np.float32)
        sources = slots[old][order[was_old]]
        ids[was_old] = self.ids[touched].reshape(-1, len(self.offsets))[sources]
        values[was_old] = self.values[touched].reshape(-1, len(self.offsets))[sources]
        new = entries[order[~was_old] - old.sum()]
        ids[~was_old], values[~was_old] = self._windows(stretch, active, new)
        self.keys[rows, ranks], self.documents[rows, ranks] = every[order], documents[order]
        self.positions[rows, ranks] = positions[order]
        self.ids[rows, ranks], self.values[rows, ranks] = ids, values

    def _windows(self, stretch: Stretch, active: Active, entries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Token ids and the feature's own values round some entries, `[·, W]`."""
        count = len(stretch.ids)
        centre = active.tokens[entries][:, None]
        places = centre + self.offsets
        inside = (places >= 0) & (places < count)
        places = places.clip(0, count - 1)
        inside &= stretch.documents[places] == stretch.documents[centre]
        ids = np.where(inside, stretch.ids[places], ABSENT)
        codes = active.features.astype(np.int64) * count + active.tokens
        order = codes.argsort()
        wanted = active.features[entries].astype(np.int64)[:, None] * count + places
        found = order[np.searchsorted(codes[order], wanted).clip(0, len(codes) - 1)]
        values = np.where(inside & (codes[found] == wanted), active.values[found], 0.0)
        return ids.astype(np.int32), values.astype(np.float32)


def drawn(layer: int, stretch: Stretch, active: Active) -> np.ndarray:
    """A key for each entry, uniform and a function of layer, feature, document and position alone (splitmix64)."""
    mixed = stretch.documents[active.tokens].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= stretch.positions[active.tokens].astype(np.uint64) * np.uint64(0xC2B2AE3D27D4EB4F)
    mixed ^= (active.features.astype(np.uint64) + (np.uint64(layer) << np.uint64(32))) * np.uint64(0x165667B19E3779F9)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed ^= mixed >> np.uint64(shift)
        mixed *= np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(11)).astype(np.float64)
