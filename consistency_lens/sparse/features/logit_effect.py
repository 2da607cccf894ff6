"""What a feature writes to the logits without the help of any layer above: through the final norm and the head.

All that a feature writes, to whatever target, is added up (a residual stream adds it up as well), laid in the place of
the stream behind the last block, and read by the model's own norm and head. So no architecture has to be known here.

Shapes: K features, L chosen layers, d hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...frozen import Edit, FrozenLM

if TYPE_CHECKING:
    from ..modeling import CrosslayerTranscoder

AT_ONCE = 1 << 24  # logits


@torch.no_grad()
def written_by(lens: CrosslayerTranscoder, index: int, features: Tensor) -> Tensor:
    """What features of a chosen layer write per unit of activation to each of their targets, as the model has it:
    `[K, n, d]`."""
    rows = lens.targets.rows(index, lens.layers_in_order[index], features)
    rows = rows.view(len(features), -1, lens.config.hidden_size)
    return rows * lens.targets.standardiser.scale[index : index + rows.shape[1]]


@torch.no_grad()
def effects(lens: CrosslayerTranscoder, index: int, features: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Of features of a chosen layer, default all of them, some at a time: the lengths of what they write to each
    target, `[K, n]`, and their effect on the logits, `[K, V]`.

    The effect is what one unit of activation adds to the logits where the stream is as long as `stream_size` says,
    less its mean over the vocabulary: only differences of logits matter.
    """
    frozen = lens.reader
    columns = max(1, min(frozen.max_length, AT_ONCE // frozen.vocab_size))
    nothing, size, centres = _final(frozen)
    wanted = torch.arange(lens.config.features, device=lens.device) if features is None else features
    for part in wanted.split(columns):
        written = written_by(lens, index, part)
        total = written.sum(1)
        logits = _read_out(frozen, _unit(total) * size) - nothing
        spread = total - total.mean(1, keepdim=True) if centres else total
        logits = logits * (spread.square().mean(1, keepdim=True).sqrt() / size).to(logits)
        yield written.norm(dim=2), logits - logits.mean(1, keepdim=True)


def _unit(vectors: Tensor) -> Tensor:
    """Scaled so that the mean square of their coordinates is 1; what writes nothing stays nothing."""
    return vectors / vectors.square().mean(1, keepdim=True).sqrt().clamp_min(1e-30)


def _final(frozen: FrozenLM) -> tuple[Tensor, float, bool]:
    """The logits of an empty stream, the size of the stream (root mean square of its coordinates) behind the last
    block for the model's own first tokens, and whether the final norm takes the mean of the coordinates away."""
    ids = torch.arange(min(16, frozen.vocab_size), device=frozen.device)[None]
    site = f"resid_post.{frozen.num_layers - 1}"
    stream = frozen.read({"input_ids": ids}, site)[site][0].float()
    size = float(stream[1:].square().mean(1).sqrt().mean())
    ones = torch.ones(1, frozen.hidden_size, device=frozen.device)
    nothing, flat = _read_out(frozen, 0 * ones), _read_out(frozen, ones * size)
    return nothing, size, bool(torch.allclose(nothing, flat, rtol=1e-3, atol=1e-3))


def _read_out(frozen: FrozenLM, stream: Tensor) -> Tensor:
    """Logits `[K, V]` of these streams `[K, d]` behind the last block."""
    edit = Edit(f"resid_post.{frozen.num_layers - 1}", stream.to(frozen.device, frozen.dtype)[None], None)
    ids = torch.zeros(1, len(stream), dtype=torch.long, device=frozen.device)
    return frozen.logits({"input_ids": ids}, edit)[0].float()
