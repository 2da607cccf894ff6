"""Shuffled tokens as a map-style dataset, from stored blocks or from the model: a batch is one gather.

Index i is the i-th token of the epoch's order, so the order is the dataset's own: a `Trainer` takes it with
`train_sampling_strategy="sequential"`, the collator `as_it_is` or `BySite`, and `remove_unused_columns=False`. Its
sharding over processes and its skipping of batches on resume stay as they are; it says `set_epoch`.

Shapes: B tokens of a batch, n tokens of a window, L sites, d hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ...errors import BadInput
from .buffers import Buffers
from .documents import BlockSource, Labels
from .encoding import from_int8
from .order import EpochOrder, WindowOrder


def as_it_is(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The collator: a batch comes out of the dataset whole."""
    return batch


class BySite:
    """The collator for whoever wants activations as a dict: site -> `[B, d]`, without a copy.

    Args:
        sites: as the second axis of a batch has them.
    """

    def __init__(self, sites: Sequence[str]) -> None:
        self.sites = list(sites)

    def __call__(self, batch: Mapping[str, Tensor]) -> dict[str, Any]:
        return {**batch, "activations": dict(zip(self.sites, batch["activations"].unbind(1), strict=True))}


class ShuffledTokens(Dataset[dict[str, Tensor]]):
    """All tokens of a split, each once per epoch, shuffled as a function of seed and epoch.

    A batch: `activations [B, L, d]`, and for each token `doc_id`, `position` and `input_ids` `[B]`, on one device.

    Args:
        source: the blocks.
        seed: of the order.
        blocks_per_window: blocks whose tokens are shuffled together; they are what is held in memory.
        dtype: of windows and batches. Default: as stored, float32 for int8, and that of a model that is streamed.
        device: where the window is held and batches come out. Default: the CPU for stored blocks, the model's own
            device for streamed ones.
    """

    def __init__(
        self,
        source: BlockSource,
        seed: int = 0,
        blocks_per_window: int = 8,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        self.source, self.order = source, WindowOrder(source.sizes, seed, blocks_per_window)
        self.dtype = source.dtype if dtype is None else dtype
        self.device = source.device if device is None else torch.device(device)
        # In shared memory, so that workers that outlive an epoch learn of the next one.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._at_hand: tuple[int, EpochOrder] | None = None  # an epoch and its order
        self._window: Window | None = None
        self._room, self._buffers = Buffers(1), Buffers()

    def __len__(self) -> int:
        return len(self.order)

    def set_epoch(self, epoch: int) -> None:
        """Take the order of another epoch; accelerate calls this."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: values[0] for name, values in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        places, epoch = np.asarray(indices, np.int64), int(self._epoch)
        if len(places) == 0 or places.min() < 0 or places.max() >= len(self):
            raise IndexError(f"indices {list(indices)[:3]} of {len(self)} tokens")
        window_of = self._order_of(epoch).find(places)
        windows = np.unique(window_of).tolist()
        if len(windows) == 1:
            return self._taken(windows[0], epoch, places)
        self._require_order(window_of, len(windows))
        shape = (len(places), len(self.source.sites), self.source.hidden_size)
        found = {"activations": self._buffers.empty(shape, self.dtype, self.device)}
        for window in windows:
            mine = np.flatnonzero(window_of == window)
            where = torch.from_numpy(mine).to(self.device)
            for name, values in self._taken(window, epoch, places[mine]).items():
                whole = found.setdefault(name, values.new_empty(len(places), *values.shape[1:]))
                whole.index_copy_(0, where, values)
        return found

    @staticmethod
    def _require_order(window_of: np.ndarray, windows: int) -> None:
        changes = int((np.diff(window_of) != 0).sum()) + 1
        if windows > 2 and changes > 4 * windows:
            raise BadInput(
                "train_sampling_strategy",
                "random",
                "Use sequential: the tokens are shuffled already.",
                why=f"one batch jumps {changes} times between {windows} windows of blocks, each read anew",
            )

    def _order_of(self, epoch: int) -> EpochOrder:
        if self._at_hand is None or self._at_hand[0] != epoch:
            self._at_hand = epoch, self.order.epoch(epoch)
        return self._at_hand[1]

    def _taken(self, number: int, epoch: int, places: np.ndarray) -> dict[str, Tensor]:
        order = self._order_of(epoch)
        if self._window is None or self._window.key != (epoch, number):
            self._window = None  # the next one takes its memory
            count = int(order.starts[number + 1] - order.starts[number])
            shape = (count, len(self.source.sites), self.source.hidden_size)
            room = self._room.empty(shape, self.source.stored or self.dtype, self.device)
            permuted = self.order.within(epoch, number, count)
            self._window = Window.load(self.source, order.windows[number], room, permuted, (epoch, number), self.dtype)
        return self._window.take(places - order.starts[number], self._buffers)


class Window(NamedTuple):
    """The tokens of a few blocks at hand."""

    key: tuple[int, int]  # epoch and number
    activations: Tensor  # [n, L, d], block after block, as they are stored or as they come out
    scales: Tensor | None  # [K, L, d] of int8
    block: np.ndarray  # [n]
    permuted: np.ndarray  # [n], which token comes when
    labels: Labels
    dtype: torch.dtype  # in which tokens come out

    @classmethod
    def load(
        cls,
        source: BlockSource,
        blocks: np.ndarray,
        room: Tensor,
        permuted: np.ndarray,
        key: tuple[int, int],
        dtype: torch.dtype,
    ) -> Window:
        """Fill `room` with these blocks."""
        sizes = source.sizes[blocks]
        for number, part in zip(blocks, room.split(sizes.tolist()), strict=True):
            source.fill(int(number), part)
        scales, extremes = None, room
        if source.stored:
            scales = torch.stack([source.scale(int(number)) for number in blocks]).to(room.device)
            extremes = (127 * scales).to(dtype)
        if dtype != source.dtype and not bool(extremes.isfinite().all()):
            why = f"an activation, which comes as {source.dtype}, does not fit"
            raise BadInput("dtype", str(dtype), "Use torch.bfloat16 or torch.float32.", why=why)
        labels = Labels(*map(np.concatenate, zip(*(source.labels(int(number)) for number in blocks), strict=True)))
        return cls(key, room, scales, np.repeat(np.arange(len(blocks)), sizes), permuted, labels, dtype)

    def take(self, places: np.ndarray, buffers: Buffers) -> dict[str, Tensor]:
        """The tokens at these places of the window's order."""
        tokens, device = self.permuted[places], self.activations.device
        labels = {name: torch.from_numpy(values[tokens]).to(device) for name, values in self.labels._asdict().items()}
        shape = (len(tokens), *self.activations.shape[1:])
        found, chosen = buffers.empty(shape, self.dtype, device), torch.from_numpy(tokens).to(device)
        if self.scales is None:
            torch.index_select(self.activations, 0, chosen, out=found)
        else:
            blocks = torch.from_numpy(self.block[tokens]).to(device)
            from_int8(self.activations, self.scales, found, chosen, blocks)
        return {"activations": found, **labels}
