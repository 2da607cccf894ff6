"""The numbers of a block on disk: as they are, rounded, or as int8 with a scale per channel; no loss is silent.

Shapes: n tokens of a block, L sites, d hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...errors import BadInput
from ..precision import lost_in_float16, not_finite

STORED = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "int8": torch.int8,
}
_LARGEST = 127
_AT_ONCE = 1 << 17  # numbers that are made of int8 at a time: they fit into the cache of a CPU


class Encoded(NamedTuple):
    """Activations as they are stored."""

    activations: Tensor  # [n, L, d]
    scale: Tensor | None = None  # [L, d] float32: a step of int8
    lost: Tensor | None = None  # [L] float64: summed squared error of int8


def stored_dtype(name: str, model_dtype: torch.dtype) -> str:
    """What `auto` is: the dtype of the model, which loses nothing."""
    if name == "auto":
        return str(model_dtype).removeprefix("torch.")
    if name not in STORED:
        raise BadInput("storage_dtype", name, f"Use auto, {', '.join(STORED)}.")
    return name


def require_numbers(values: Tensor, sites: Sequence[str], doc_id: np.ndarray, model: str) -> None:
    """Raise where the model itself gave something that is not a number, and say where.

    Args:
        values: `[n, L, d]`, in the dtype of the model.
        sites: their names.
        doc_id: the document of each token.
        model: what it is called.
    """
    broken = ~values.isfinite().all(2)  # [n, L]
    if not bool(broken.any()):
        return
    site = int(torch.nonzero(broken.any(0))[0])  # the first in the pass: from there it spreads, by attention even back
    token = int(torch.nonzero(broken[:, site])[0])
    raise not_finite(sites[site], int(doc_id[token]), values.dtype, model)


def encode(values: Tensor, dtype: str, sites: Sequence[str], doc_id: np.ndarray) -> Encoded:
    """Activations `[n, L, d]` as they shall be stored, on their own device."""
    if dtype == "int8":
        return _to_int8(values)
    if dtype == "float16" and values.dtype != torch.float16:
        for number, site in enumerate(sites):
            lost = torch.nonzero(lost_in_float16(values[:, number]))
            if len(lost):
                raise BadInput(
                    "storage_dtype",
                    "float16",
                    "Use bfloat16, float32 or int8 (and --overwrite).",
                    why=f"the activation at {site} in document {doc_id[int(lost[0])]} does not fit into float16",
                )
    return Encoded(values.to(STORED[dtype]))


def _to_int8(values: Tensor) -> Encoded:
    whole = torch.empty(values.shape, dtype=torch.int8, device=values.device)
    scale = torch.empty(values.shape[1:], dtype=torch.float32, device=values.device)
    lost = torch.zeros(values.shape[1], dtype=torch.float64)
    for site in range(values.shape[1]):  # one at a time: what is made on the way has twice the bytes
        exact = values[:, site].float()
        step = exact.abs().amax(0) / _LARGEST
        scale[site] = torch.where(step > 0, step, torch.ones_like(step))  # a channel that is silent
        whole[:, site] = (exact / scale[site]).round().clamp(-_LARGEST, _LARGEST).to(torch.int8)
        lost[site] = (whole[:, site] * scale[site] - exact).double().square().sum()
    return Encoded(whole, scale, lost)


def from_int8(whole: Tensor, scales: Tensor, into: Tensor, tokens: Tensor, blocks: Tensor) -> None:
    """Write the numbers that int8 stands for, of some tokens.

    Args:
        whole: `[n, L, d]` int8.
        scales: of each block, `[K, L, d]`.
        into: a tensor of floats, `[B, L, d]`.
        tokens: `[B]`, which of the n.
        blocks: `[B]`, the block of each.
    """
    at_once = max(_AT_ONCE // scales[0].numel(), 1) if into.device.type == "cpu" else max(len(into), 1)
    for part, chosen, own in zip(into.split(at_once), tokens.split(at_once), blocks.split(at_once), strict=True):
        steps = part if part.dtype == scales.dtype else torch.empty_like(part, dtype=scales.dtype)
        torch.index_select(scales, 0, own, out=steps).mul_(whole.index_select(0, chosen))
        part.copy_(steps)  # nothing, where they are the same


def broken_scale(scale: Tensor, sites: Sequence[str]) -> str | None:
    """What is wrong with the scale of an int8 block, or None."""
    if scale.dtype != torch.float32 or scale.dim() != 2 or len(scale) != len(sites):
        return f"the scale of its int8 has the form {list(scale.shape)}, {scale.dtype}"
    bad = torch.nonzero(~(scale.isfinite() & (scale > 0)))
    if not len(bad):
        return None
    site, channel = bad[0].tolist()
    return f"the scale of its int8 at {sites[site]}, channel {channel}, is {scale[site, channel].item()}"
