"""Which lens made a code: a name that follows from the compressor's weights, and from nothing else.

A receiver that is added later changes nothing of it: it reads the codes that are there already.
"""

from __future__ import annotations

from torch import Tensor, nn
from xxhash import xxh3_64

DIGITS = 16
_SAMPLE = 1 << 16  # numbers of a weight; a training step changes nearly all that it has


def identity_of(compressor: nn.Module) -> str:
    """`DIGITS` hexadecimal digits. Of a large weight it reads evenly spaced numbers: reading all of them would take
    longer than compressing a text."""
    digest = xxh3_64()
    for name, parameter in sorted(compressor.named_parameters()):
        digest.update(f"{name} {tuple(parameter.shape)}".encode())
        digest.update(_sample(parameter.detach()).numpy().tobytes())
    return digest.hexdigest()


def _sample(weight: Tensor) -> Tensor:
    flat = weight.flatten()
    step = -(-len(flat) // _SAMPLE)
    return flat[::step].float().cpu().contiguous()
