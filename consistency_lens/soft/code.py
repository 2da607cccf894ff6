"""`LatentCode`: the vectors that stand for some passages, as they are when they come out of a wire.

Shapes: B rows, M vectors of the longest code, d_z size of a vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..base.lens import Code
from ..errors import BadInput
from .bytes.wire import Wire, bytes_of
from .configuration import LatentWireConfig
from .serving.identity import DIGITS


@dataclass(frozen=True)
class LatentCode(Code):
    """
    Args:
        vectors: `[B, M, d_z]`, rounded as the configuration says; 0 where a row has no vector.
        mask: `[B, M]`, the vectors that a row has; its last ones may be padding.
    """

    vectors: Tensor
    mask: Tensor

    def take(self, rows: Tensor) -> LatentCode:
        rows = rows.to(self.vectors.device)
        return LatentCode(self.vectors[rows], self.mask[rows])

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def counts(self) -> list[int]:
        """How many vectors each row has."""
        return self.mask.sum(1).tolist()

    def rows(self, config: LatentWireConfig) -> list[dict[str, Any]]:
        """For people: how large each code is, and how many bytes its wire has."""
        found = []
        for count in self.counts:
            width = self.vectors.shape[-1]
            size = sent_bytes(count, width, config.bits, config.group)
            words = f"{count} vectors of {width} numbers at {config.bits} bits, {size} bytes"
            found.append({"explanation": words, "vectors": count, "bytes": size})
        return found

    def wires(self, config: LatentWireConfig, lens: str = "") -> list[Wire]:
        """One wire for each row.

        Args:
            config: of the lens that made the code.
            lens: id of that lens, by which a reader knows it.
        """
        return [
            Wire.of(vectors[mask], config.bits, config.group, lens)
            for vectors, mask in zip(self.vectors.cpu(), self.mask.cpu(), strict=True)
        ]

    @classmethod
    def of_wires(cls, wires: Sequence[Wire], config: LatentWireConfig, lens: str | None = None) -> LatentCode:
        """The code that some wires hold, a row for each.

        Args:
            wires: at least one.
            config: of the lens that reads them.
            lens: id of the lens that must have made them; None for any.
        """
        if not wires:
            raise BadInput("wires", [], "Give at least one wire.")
        for wire in wires:
            if lens is not None:
                wire.require_lens(lens)
            if wire.d_z not in config.sizes or wire.d_z != wires[0].d_z:
                sizes = " or ".join(map(str, config.sizes))
                fix = f"Read it with the lens that made it, one size at a time: this one has vectors of {sizes}."
                raise BadInput("wire", f"vectors of {wire.d_z} numbers", fix, why="another lens made this code")
        counts = torch.tensor([wire.M for wire in wires])
        vectors = torch.nn.utils.rnn.pad_sequence([wire.codes() for wire in wires], batch_first=True)
        return cls(vectors, torch.arange(int(counts.max())) < counts[:, None])


def sent_bytes(M: int, d_z: int, bits: int, group: int) -> int:
    """How many bytes a code has on its way: header, the id of its lens, scales, packed values, checksum."""
    return bytes_of(M, d_z, bits, group, "0" * DIGITS)
