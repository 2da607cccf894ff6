"""Find and prove where attention and the MLP of any causal LM write, by a short pass of the model itself.

Nothing is believed because of a name. Two modules of a block are its attention and its MLP when their outputs explain
what the block adds to the residual stream, `resid_post - resid_pre = a * attn_out + b * mlp_out`, and the first of
them mixes positions. What cannot be explained is not offered, and the measured gap says how far off it was.
"""

from __future__ import annotations

import itertools
import logging

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..errors import BadInput
from .anatomy import INNER, ProvenBlock, Side, blocks_of, needs_proof, proven_of, remember
from .hooks import Seen, watching
from .middle import prove_middle

logger = logging.getLogger(__name__)

_LENGTH = 9
# The part of what a block adds that may stay unexplained: rounding, seen beside the far larger residual stream.
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
_HALF = 0.1


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
    proven = [_prove_block(*stream, seen) for stream, seen in zip(streams, record, strict=True) if stream]
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


def _prove_block(pre: Tensor, post: Tensor, seen: list[Seen]) -> ProvenBlock:
    """What one block's modules did, read as attention and MLP."""
    added = post.float() - pre.float()
    tolerance = _TOLERANCE.get(pre.dtype, _HALF)
    candidates = _outputs(seen)
    alone = next((s for s in candidates if _gap(added, s.given)[0] <= tolerance), None)
    if alone is not None:
        return _refused(f"one module alone ({alone.path}) writes all that a block adds", 0.0)
    pairs = [
        (*_gap(added, first.given, second.given), first, second)
        for first, second in itertools.combinations(candidates, 2)
    ]
    if not pairs:
        return _refused("no two of its modules write vectors of the residual stream's shape", 1.0)
    gap, scales, first, second = min(pairs, key=lambda pair: pair[0])
    scale = (scales[0], scales[1])
    if gap > tolerance:
        why = (
            f"the best pair of modules ({first.path}, {second.path}) leaves {gap:.2g} of what a block adds unexplained"
        )
        return _refused(why, gap)
    if not _mixes(first.given) and _mixes(second.given):
        first, second, scale = second, first, scale[::-1]
    ports: dict[str, tuple[str, Side]] = {"attn_out": (first.path, "output"), "mlp_out": (second.path, "output")}
    middle = pre.float() + scale[0] * first.given.float()  # type: ignore[union-attr]
    reads = _mlp_input(seen, second, middle, tolerance)
    if reads is None:
        return ProvenBlock(ports, scale, {"mlp_in": "no module was found whose input is what the MLP sees"}, gap)
    return ProvenBlock(ports | {"mlp_in": reads}, scale, {}, gap)


def _outputs(seen: list[Seen]) -> list[Seen]:
    """One module for each distinct vector that was written, in the order in which they were: the outermost, and rather
    one with parts of its own than a dropout or a reshaping behind it."""
    found: list[Seen] = []
    for s in seen:
        if s.given is None or not s.path:
            continue
        same = next((i for i, other in enumerate(found) if torch.equal(other.given, s.given)), None)  # type: ignore[arg-type]
        if same is None:
            found.append(s)
        elif _rank(s) < _rank(found[same]):
            found[same] = s
    return found


def _rank(s: Seen) -> tuple[int, bool]:
    return s.path.count("."), not list(s.module.children())


def _gap(added: Tensor, *outputs: Tensor | None) -> tuple[float, list[float]]:
    """The part of `added` that some outputs leave unexplained, and the multipliers they were taken with: 1, or where
    that explains less, what fits best."""
    size = added.norm().clamp_min(1e-30)
    columns = torch.stack([output.float().flatten() for output in outputs if output is not None], dim=1)
    plain = float((added.flatten() - columns.sum(1)).norm() / size)
    best = torch.linalg.lstsq(columns, added.flatten().unsqueeze(1)).solution.squeeze(1)
    scaled = float((added.flatten() - columns @ best).norm() / size)
    if plain <= 2 * scaled + 1e-6 or not bool(best.isfinite().all()):
        return plain, [1.0] * columns.shape[1]
    return scaled, best.tolist()


def _mixes(given: Tensor | None) -> bool:
    """Whether a changed first token shows in the outputs at later positions."""
    assert given is not None
    return bool((given[0, 1:] - given[2, 1:]).abs().max() > 1e-6 * given.abs().max())


def _mlp_input(seen: list[Seen], mlp: Seen, middle: Tensor, tolerance: float) -> tuple[str, Side] | None:
    """The module and side where what the MLP sees flows: into the MLP itself, into what a norm after it reads, or out
    of the norm before it."""

    def near(tensor: Tensor | None, other: Tensor) -> bool:
        return tensor is not None and float((tensor.float() - other).norm() / other.norm()) <= tolerance

    if list(mlp.module.children()) and mlp.taken is not None:
        return mlp.path, "input"
    if mlp.taken is not None:
        for s in seen:
            whole = list(s.module.children()) and s.taken is not None and s.given is not None
            if whole and s.path and s is not mlp and torch.equal(s.given, mlp.taken):  # type: ignore[arg-type]
                return s.path, "input"
    norms = [s for s in seen if s.path and near(s.taken, middle) and s.given is not None and not near(s.given, middle)]
    return (norms[0].path, "output") if norms else None
