"""The bill of blocks, printed before the work: bytes per token, tokens, time and disk, and what a window holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..bill import Bill, free_bytes, human_bytes
from .documents import BlockRules, Tokens
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
        share: float,
        documents: int | None,
        rules: BlockRules,
        shape: tuple[int, int],
        dtype: str,
        documents_per_shard: int,
        tokens_per_second: float,
        folder: Path,
        stored_bytes: int = 0,
    ) -> BlockBill:
        """Scale a sample of documents up.

        Args:
            sample: some documents.
            share: how many of all documents have a token that is kept.
            documents: how many there are; of a stream that does not say, None, and the bill is for 1000.
            rules: of the blocks.
            shape: number of sites and hidden size.
            dtype: in which activations are stored.
            documents_per_shard: documents of a chunk.
            tokens_per_second: speed of all processes together.
            folder: where blocks will lie.
            stored_bytes: of blocks that lie there already.
        """
        wanted = documents if documents is not None else 1000
        scale = wanted * share / max(len(sample), 1)
        tokens = scale * sum(len(document.ids) for document in sample)
        kept = tokens - scale * len(sample) * rules.min_position
        numbers = shape[0] * shape[1]
        per_token = numbers * STORED[dtype].itemsize
        size = kept * per_token + tokens * _TOKEN + scale * len(sample) * _DOCUMENT
        size += -(-wanted // documents_per_shard) * 2 * numbers * _STATISTIC  # mean and variance of each chunk
        if dtype == "int8":
            size += kept / rules.tokens_per_block * numbers * 4
        return cls(
            documents=documents,
            rows=round(kept),
            bytes=round(size),
            tokens=round(tokens),
            tokens_per_second=tokens_per_second,
            free_bytes=free_bytes(folder),
            folder=str(folder),
            stored_bytes=stored_bytes,
            bytes_per_token=per_token,
            window_bytes=8 * rules.tokens_per_block * per_token,
        )

    def entries(self) -> list[tuple[str, str]]:
        own = {"rows": [("tokens kept", f"about {self.rows:,}"), ("per token", f"{self.bytes_per_token:,} B")]}
        lines = [line for name, value in super().entries() for line in own.get(name, [(name, value)])]
        return [*lines, ("in memory", f"{human_bytes(self.window_bytes)} for 8 blocks, shuffled together")]
