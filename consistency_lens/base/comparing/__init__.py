"""The frozen model without edits against it with them: one code path for training, report and every control."""

from .chain import Applied, apply_lens, beside, likeliest
from .comparison import Comparison, compare_vectors
from .joint import Joint
from .token_swap import TokenSwap
from .whole_pass import WholePass

__all__ = [
    "Applied",
    "Comparison",
    "Joint",
    "TokenSwap",
    "WholePass",
    "apply_lens",
    "beside",
    "compare_vectors",
    "likeliest",
]
