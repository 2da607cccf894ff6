"""Find and prove where attention and the MLP of any causal LM write, by a short pass of the model itself.

Nothing is believed because of a name. Two modules of a block are its attention and its MLP when their outputs explain
what the block adds to the residual stream, `resid_post - resid_pre = a * attn_out + b * mlp_out`, and the first of
them mixes positions. What cannot be explained is not offered, and the measured gap says how far off it was.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Collection
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ...errors import BadInput
from ..hooks import Seen, watching
from .middle import is_sum, prove_middle
from .parts import INNER, Place, ProvenBlock, blocks_of, needs_proof, proven_of, remember

logger = logging.getLogger(__name__)

_LENGTH = 9
_ORDERS = (("attn_out", "mlp_out"), ("mlp_out", "attn_out"))
# How much of the residual stream may stay unexplained at each position: what rounding loses, with some room; of other
# dtypes, half precision, one unit in the last place.
_ROUNDING = {torch.float32: 2e-6, torch.float64: 2e-6}
_BETTER = 3  # times: by so much two modules have to explain more than one alone, else the second writes nothing


@torch.no_grad()
def prove(model: PreTrainedModel) -> None:
    """Prove the sites of a model whose architecture has no row by hand, once; raise where it is not causal."""
    if not needs_proof(model):
        return
    blocks = blocks_of(model)
    embeddings = model.get_input_embeddings()
    if any(p.is_meta or not p.numel() for p in model.parameters()):
        remember(model, [_refused("its weights are not all at hand, so that no pass can prove it", 1.0)] * len(blocks))
        return
    # Three rows: the second differs from the first in its last token, the third in its first one.
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, embeddings.num_embeddings, (1, _LENGTH), generator=generator).repeat(3, 1)
    ids[1, -1], ids[2, 0] = (ids[1, -1] + 1) % embeddings.num_embeddings, (ids[2, 0] + 1) % embeddings.num_embeddings
    shape = torch.Size([3, _LENGTH, model.config.get_text_config().hidden_size])
    inputs = {"input_ids": ids.to(embeddings.weight.device), "use_cache": False}
    with watching(model, blocks, shape) as record:
        logits = model(**inputs).logits.float()
    drift = (logits[0, :-1] - logits[1, :-1]).abs().max() / logits.abs().max().clamp_min(1e-30)
    if drift > 1e-3:
        raise BadInput(
            "model_type",
            model.config.model_type,
            "Use a causal LM; of an encoder, its decoder (is_decoder=True in its configuration).",
            why=f"its earlier positions see later ones: a changed last token moves their logits by {float(drift):.2g}",
        )
    streams = [_stream(seen) for seen in record]
    if None in streams:
        raise BadInput(
            "model_type",
            model.config.model_type,
            "Use a model whose blocks each turn one residual stream [rows, columns, hidden_size] into the next.",
            why="its blocks do not",
        )
    proven: list[ProvenBlock] = []
    for stream, seen in zip(streams, record, strict=True):
        if stream is not None:
            proven.append(_prove_block(*stream, seen, below=proven[0] if proven else None))
    # In half precision a weak part of one block may drown in rounding: it lies where it does in the other blocks.
    known = {(block.ports[a].path, block.ports[b].path) for block in proven if block.ports for a, b in _ORDERS}
    for layer, block in enumerate(proven):
        stream = streams[layer]
        if known and not block.ports and stream is not None:
            again = _prove_block(*stream, record[layer], known, proven[0])
            proven[layer] = again if again.ports else block
    prove_middle(model, proven, record, lambda: model(**inputs))
    missing = sorted({why for block in proven_of(model) for why in block.refused.values()})
    if missing:
        logger.info("%s: not every site is offered: %s", model.config.model_type, missing)


def _refused(why: str, gap: float) -> ProvenBlock:
    return ProvenBlock({}, (1.0, 1.0), dict.fromkeys(INNER, why), gap)


def _stream(seen: list[Seen]) -> tuple[Tensor, Tensor] | None:
    """The residual stream before and after a block, where both have its shape."""
    whole = next((s for s in seen if not s.path), None)
    if whole is None or whole.taken is None or whole.given is None:
        return None
    return whole.taken, whole.given


def _prove_block(
    pre: Tensor,
    post: Tensor,
    seen: list[Seen],
    known: Collection[tuple[str, str]] = (),
    below: ProvenBlock | None = None,
) -> ProvenBlock:
    """What one block's modules did, read as attention and MLP; where a pair is known from other blocks, as that.

    Only the first block, `below` all others, is given a stream without mixed positions: what its MLP is, theirs is.
    """
    if not bool((pre.isfinite() & post.isfinite()).all()):
        return _refused(f"its residual stream is not finite in {str(pre.dtype).removeprefix('torch.')}", 1.0)
    sums = _Sums(pre, post)
    pairs = [
        (sums.fit(first.given, second.given), first, second)
        for first, second in itertools.combinations(_outputs(seen), 2)
        if not known or (first.path, second.path) in known
    ]
    alone = min(((sums.fit(s.given), s.path) for s in _outputs(seen)), default=None)
    if alone is None or not pairs:
        return _refused("no two of its modules write vectors of the residual stream's shape", 1.0)
    fit, first, second = min(pairs, key=lambda pair: pair[0].gap)
    if not known and sums.is_rounding(alone[0]) and alone[0].worst <= _BETTER * fit.worst:
        return _refused(f"one module alone ({alone[1]}) writes all that a block adds", 0.0)
    if not sums.is_rounding(fit):
        unexplained = f"leaves {fit.gap:.2g} of what a block adds unexplained"
        return _refused(f"the best pair of modules ({first.path}, {second.path}) {unexplained}", fit.gap)
    scale = (fit.scale[0], fit.scale[1])
    if below is not None and below.ports:
        turned = first.path == below.ports["mlp_out"].path or second.path == below.ports["attn_out"].path
    else:
        turned = not _mixes(first.given) and _mixes(second.given)
    if turned:
        first, second, scale = second, first, scale[::-1]
    given = first.given
    assert given is not None
    ports = {
        "attn_out": Place(first.path, "output", first.flat_given),
        "mlp_out": Place(second.path, "output", second.flat_given),
    }
    reads = _mlp_input(seen, second, lambda taken: is_sum(taken, pre, scale[0], given))
    if reads is None:
        missing = {"mlp_in": "no module was found whose input is what the MLP sees"}
        return ProvenBlock(ports, scale, missing, fit.gap)
    return ProvenBlock(ports | {"mlp_in": reads}, scale, {}, fit.gap)


def _outputs(seen: list[Seen]) -> list[Seen]:
    """One module for each distinct vector that was written, in the order in which they were: the outermost, and rather
    one with parts of its own than a dropout or a reshaping behind it."""
    found: list[Seen] = []
    for s in seen:
        if s.given is None or not s.path or not bool(s.given.isfinite().all()):
            continue
        same = next((i for i, other in enumerate(found) if torch.equal(other.given, s.given)), None)  # type: ignore[arg-type]
        if same is None:
            found.append(s)
        elif _rank(s) < _rank(found[same]):
            found[same] = s
    return found


def _rank(s: Seen) -> tuple[int, bool]:
    return s.path.count("."), not list(s.module.children())


class _Fit(NamedTuple):
    gap: float  # the part of what a block adds that stays unexplained
    worst: float  # the same at the worst position, in parts of the residual stream there
    scale: tuple[float, ...]  # what the outputs were multiplied by


class _Sums:
    """What a block adds, at each position in parts of the residual stream there: its size differs by thousands between
    positions, and it is what rounding goes by."""

    def __init__(self, pre: Tensor, post: Tensor) -> None:
        self.size = (pre.float().norm(dim=-1, keepdim=True) + post.float().norm(dim=-1, keepdim=True)).clamp_min(1e-30)
        self.added = (post.float() - pre.float()) / self.size
        self.rounding = _ROUNDING.get(pre.dtype, torch.finfo(pre.dtype).eps)

    def fit(self, *outputs: Tensor | None) -> _Fit:
        """How well some outputs explain it, multiplied by 1, or where that explains less, by what fits best."""
        columns = torch.stack([(each.float() / self.size).flatten() for each in outputs if each is not None], dim=1)
        best = torch.linalg.lstsq(columns, self.added.flatten().unsqueeze(1)).solution.squeeze(1)
        plain, scaled = (self._left(columns, scale) for scale in (torch.ones_like(best), best))
        # No block takes away what a module writes: a norm that hardly changes the stream would stand for it.
        possible = bool((best.isfinite() & (best > 0)).all())
        return scaled if possible and scaled.gap + 1e-6 < plain.gap / 2 else plain

    def _left(self, columns: Tensor, scale: Tensor) -> _Fit:
        left = self.added - (columns @ scale).view_as(self.added)
        gap = left.norm() / self.added.norm().clamp_min(1e-30)
        return _Fit(float(gap), float(left.norm(dim=-1).max()), tuple(scale.tolist()))

    def is_rounding(self, fit: _Fit) -> bool:
        """Whether no more stays unexplained than adding two vectors to the stream rounds away."""
        return fit.worst <= self.rounding


def _mixes(given: Tensor | None) -> bool:
    """Whether a changed first token shows in the outputs at later positions."""
    assert given is not None
    return bool((given[0, 1:] - given[2, 1:]).abs().max() > 1e-6 * given.abs().max())


def _mlp_input(seen: list[Seen], mlp: Seen, is_middle: Callable[[Tensor], bool]) -> Place | None:
    """Where what the MLP sees flows: into the MLP itself, into what a norm after it reads, or out of the norm before
    it."""
    if list(mlp.module.children()) and mlp.taken is not None:
        return Place(mlp.path, "input", mlp.flat_taken)
    if mlp.taken is not None:
        for s in seen:
            whole = list(s.module.children()) and s.taken is not None and s.given is not None
            if whole and s.path and s is not mlp and torch.equal(s.given, mlp.taken):  # type: ignore[arg-type]
                return Place(s.path, "input", s.flat_taken)
    norms = [s for s in seen if s.path and s.taken is not None and s.given is not None and is_middle(s.taken)]
    norm = next((s for s in norms if not is_middle(s.given)), None)  # type: ignore[arg-type]
    return None if norm is None else Place(norm.path, "output", norm.flat_given)
