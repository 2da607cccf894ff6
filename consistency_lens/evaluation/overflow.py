"""Where no KL could be measured at all: which numbers were not finite, and what to do about them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..errors import BadInput
from .about import LENS
from .bootstrap import Records


def require_finite(records: Records, sites: Sequence[str], dtype: torch.dtype) -> None:
    """Raise where a lens has a KL on no row: a report would hold nothing, and a card could say nothing.

    Args:
        records: what was measured; of what was not finite nothing counts.
        sites: where the lens writes.
        dtype: of the frozen model.
    """
    if _known(records, LENS, "kl"):
        return
    kind, at = str(dtype).removeprefix("torch."), ", ".join(sites)
    if not _known(records, "self", "kl"):
        why = f"the logits of the model itself are not finite in {kind}, on every row"
        narrow = kind == "float16"
        fix = "Load the model in bfloat16 or float32." if narrow else "Check its weights: they may be damaged."
        raise BadInput("dtype", kind, fix, why)
    if not _known(records, LENS, "squared_error"):
        why = f"what it restores at {at} is not finite, on every row"
        fix = "Go back to an earlier checkpoint, or train again with lower learning rates: it has diverged."
        raise BadInput("lens", LENS, fix, why)
    why = f"with what it restores at {at} in its place, the logits of the model are not finite in {kind}, on every row"
    fix = "Load the model in float32, or go back to an earlier checkpoint: its vectors are too long for this dtype."
    raise BadInput("lens", LENS, fix, why)


def _known(records: Records, code: str, measure: str) -> bool:
    """Whether it is a number on some row; what nobody has measured is not what went wrong."""
    return (code, measure) not in records.values or bool(records.weight(code, measure).any())
