"""Whether activations are numbers, and whether float16 can hold them.

Shapes: R rows, d hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..errors import BadInput
from ..frozen import FrozenLM
from .contexts.reader import Vectors
from .contexts.rows import Prepared

_LARGEST_FLOAT16 = 65504.0
_ROUNDING = 2.0**-10  # of a whole vector; float16 rounds each normal number to within 2^-11


def require_finite(prepared: Sequence[Prepared], vectors: Vectors, model: FrozenLM) -> None:
    """Raise where the model itself gave something that is not a number, and say in which document."""
    for site, values in vectors.items():
        broken = torch.nonzero(~values.isfinite().all(1)).flatten()
        if len(broken):
            owners = np.repeat([p.doc_id for p in prepared], [len(p.positions) for p in prepared])
            raise not_finite(site, int(owners[int(broken[0])]), model.dtype, model.model_id)


def not_finite(site: str, doc_id: int, model_dtype: torch.dtype, model: str) -> BadInput:
    """The error of an activation that the model itself got wrong."""
    fix = "Start afresh with --dtype bfloat16 or float32 (and --overwrite), or leave this document out."
    if model_dtype in (torch.float32, torch.float64):  # no other dtype would hold it
        fix = "Check the weights of the model, which is at fault at this width, or leave this document out."
    return BadInput(
        "dtype",
        str(model_dtype).removeprefix("torch."),
        fix,
        why=f"the activation of {model} at {site} in document {doc_id} is infinite or not a number",
    )


def fits_float16(values: torch.Tensor) -> bool:
    """Whether vectors `[R, d]` survive float16: none overflows, none loses more than rounding does."""
    exact = values.float()
    # The first look is enough for most that do not fit.
    return not len(exact) or bool(exact.abs().max() <= _LARGEST_FLOAT16 and not lost_in_float16(exact).any())


def lost_in_float16(values: torch.Tensor) -> torch.Tensor:
    """Which of the vectors `[R, d]` overflow in float16, or lose more than rounding does."""
    exact = values.float()
    lost = (exact - exact.half().float()).norm(dim=1)
    return (exact.abs().amax(1) > _LARGEST_FLOAT16) | ~(lost <= _ROUNDING * exact.norm(dim=1))
