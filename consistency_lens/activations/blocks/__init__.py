"""All tokens of many sites: from text to blocks of tensors, stored or streamed, and to shuffled batches."""

from .data import BlockData, UnstoredBlocks, WholeDocuments
from .dataset import Blocks
from .documents import BlockSource
from .extract import BlockArguments, BlockExtraction
from .stream import BlockStream
from .tokens import BySite, ShuffledTokens, as_it_is

__all__ = [
    "BlockArguments",
    "BlockData",
    "BlockExtraction",
    "BlockSource",
    "BlockStream",
    "Blocks",
    "BySite",
    "ShuffledTokens",
    "UnstoredBlocks",
    "WholeDocuments",
    "as_it_is",
]
