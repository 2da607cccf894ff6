"""The bill of blocks, printed before the work: bytes per token, tokens, time and disk, and what a window holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..bill import Bill, human_bytes
from ..documents import Tokens
from .documents import BlockRules
from .encoding import STORED

_TOKEN, _DOCUMENT, _STATISTIC = 4, 16, 8  # bytes of an id, of a document's number and length, of a float64


@dataclass(frozen=True)
class BlockBill(Bill):
    """What blocks will cost; their rows are the tokens that are kept."""

    FEWER: ClassVar[str] = "shorter ones (--max_length), --storage_dtype int8"

    bytes_per_token: int = 0
    window_bytes: int = 0

    @classmethod
    def of_blocks(
        cls,
        sample: Sequence[Tokens],
        scale: float,
        documents: int | None,
        rules: BlockRules,
        shape: tuple[int, int],
        dtype: str,
        chunks: int,
    ) -> BlockBill:
        """Scale a sample of documents up.

        Args:
            sample: some documents.
            scale: how many times these there are.
            documents: how many there are, if that is known.
            rules: of the blocks.
            shape: number of sites and hidden size.
            dtype: in which activations are stored.
            chunks: how many there are.
        """
        tokens = scale * sum(document.length for document in sample)
        kept = tokens - scale * len(sample) * rules.min_position
        numbers = shape[0] * shape[1]
        per_token = numbers * STORED[dtype].itemsize
        size = kept * per_token + tokens * _TOKEN + scale * len(sample) * _DOCUMENT
        size += chunks * 2 * numbers * _STATISTIC  # mean and variance of each chunk
        if dtype == "int8":
            size += kept / rules.tokens_per_block * numbers * 4
        window = 8 * rules.tokens_per_block * per_token
        return cls(documents, round(kept), round(size), round(tokens), bytes_per_token=per_token, window_bytes=window)

    def entries(self) -> list[tuple[str, str]]:
        own = {"rows": [("tokens kept", f"about {self.rows:,}"), ("per token", f"{self.bytes_per_token:,} B")]}
        lines = [line for name, value in super().entries() for line in own.get(name, [(name, value)])]
        return [*lines, ("in memory", f"{human_bytes(self.window_bytes)} for 8 blocks, shuffled together")]
