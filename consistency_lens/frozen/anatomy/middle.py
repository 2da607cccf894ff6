"""Prove where the residual stream between attention and the MLP can be read and edited.

It is no module's output: a block adds attention's output and goes on with the sum. But some module is the first to be
given that sum, the MLP's norm in most architectures, and the block adds to the same tensor later. So the port is the
input of this module, and an edit changes the tensor in place; a second pass shows that both ways go on with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..hooks import Seen, Write, editing, watching
from ..sites import Site
from .parts import PARALLEL, Place, ProvenBlock, blocks_of, remember

# How far a sum may lie from the one in higher precision, in parts of its terms.
_ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-10}
_UNREAD = "no module was found that is given the residual stream between attention and the MLP"
_COPIED = "an edit of what the MLP's norm is given does not reach what the block adds to later"


def prove_middle(
    model: PreTrainedModel,
    proven: Sequence[ProvenBlock],
    record: Sequence[Sequence[Seen]],
    run: Callable[[], object],
) -> None:
    """Add `resid_mid` to what is known of each block, or why it is not offered, and remember it.

    Args:
        model: the model that is proven.
        proven: what the first pass has shown of attention and MLP.
        record: what each module did in it.
        run: the same pass once more.
    """
    found = [_propose(block, seen) for block, seen in zip(proven, record, strict=True)]
    remember(model, found)
    offered = [layer for layer, block in enumerate(found) if "resid_mid" in block.ports]
    if not offered:
        return
    shape = _whole(record[0]).taken.shape  # type: ignore[union-attr]
    noise = {layer: _noise(record[layer]) for layer in offered}
    writes = [Write(Site("resid_mid", layer), noise[layer], None, add=True) for layer in offered]
    with editing(model, writes), watching(model, blocks_of(model), shape) as again:
        run()
    for layer in offered:
        if not _reaches_both(found[layer], again[layer], noise[layer]):
            found[layer] = _without(found[layer], _COPIED)
    remember(model, found)


def _propose(block: ProvenBlock, seen: Sequence[Seen]) -> ProvenBlock:
    """The block with the outermost and first module that is given the stream between attention and MLP."""
    if "mlp_out" not in block.ports:
        return block
    pre, attention = _whole(seen).taken, _given(block, seen, "attn_out")
    assert pre is not None
    readers = [s for s in seen if s.path and s.taken is not None and is_sum(s.taken, pre, block.scale[0], attention)]
    if readers and not is_sum(pre, pre, block.scale[0], attention):
        first = min(readers, key=lambda s: s.path.count("."))
        return block._replace(ports=block.ports | {"resid_mid": Place(first.path, "stream", first.flat_taken)})
    return _without(block, PARALLEL if _is_parallel(block, pre, seen) else _UNREAD)


def _is_parallel(block: ProvenBlock, pre: Tensor, seen: Sequence[Seen]) -> bool:
    """Whether what the MLP sees is a norm of what enters the block."""
    place = block.ports.get("mlp_in")
    if place is None:
        return False
    at = next(s for s in seen if s.path == place.path)
    sees = at.taken if place.side == "input" else at.given
    norms = [s for s in seen if s.taken is not None and s.given is not None and torch.equal(s.taken, pre)]
    return sees is not None and any(torch.equal(norm.given, sees) for norm in norms)  # type: ignore[arg-type]


def _reaches_both(block: ProvenBlock, seen: Sequence[Seen], noise: Tensor) -> bool:
    """Whether the edited stream is `resid_pre + attention + noise`, and the block adds the MLP's output to it."""
    whole = _whole(seen)
    edited = next((s.taken for s in seen if s.path == block.ports["resid_mid"].path), None)
    if whole.taken is None or whole.given is None or edited is None:
        return False
    attention, mlp = _given(block, seen, "attn_out"), _given(block, seen, "mlp_out")
    read = is_sum(edited, whole.taken, block.scale[0], attention, noise.to(edited))
    return read and is_sum(whole.given, edited, block.scale[1], mlp)


def _whole(seen: Sequence[Seen]) -> Seen:
    return next(s for s in seen if not s.path)


def _given(block: ProvenBlock, seen: Sequence[Seen], stage: str) -> Tensor:
    given = next(s.given for s in seen if s.path == block.ports[stage].path)
    assert given is not None
    return given


def _without(block: ProvenBlock, why: str) -> ProvenBlock:
    ports = {stage: port for stage, port in block.ports.items() if stage != "resid_mid"}
    return block._replace(ports=ports, refused=block.refused | {"resid_mid": why})


def _noise(seen: Sequence[Seen]) -> Tensor:
    """One random vector of about the size of the stream's."""
    stream = _whole(seen).taken
    assert stream is not None
    noise = torch.randn(1, 1, stream.shape[-1], generator=torch.Generator().manual_seed(1))
    return noise.to(stream) * stream.float().std().to(stream)


def is_sum(found: Tensor, stream: Tensor, scale: float, added: Tensor, noise: Tensor | None = None) -> bool:
    """Whether a tensor is `stream + scale * added (+ noise)` but for the rounding of each entry."""
    terms = [stream.float(), scale * added.float()] + ([] if noise is None else [noise.float()])
    tolerance = _ROUNDING.get(found.dtype, 4 * torch.finfo(found.dtype).eps)
    size = sum(term.abs() for term in terms)
    return bool(((found.float() - sum(terms)).abs() <= tolerance * size).all())
