"""All tokens of many sites: from text to blocks of tensors, stored or streamed, and to shuffled batches."""

from .dataset import Blocks, WholeDocuments
from .extract import BlockArguments, BlockExtraction
from .stream import BlockStream
from .tokens import BySite, ShuffledTokens, as_it_is

__all__ = [
    "BlockArguments",
    "BlockExtraction",
    "BlockStream",
    "Blocks",
    "BySite",
    "ShuffledTokens",
    "WholeDocuments",
    "as_it_is",
]
