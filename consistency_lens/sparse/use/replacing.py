"""A transcoder in the place of MLPs: edits that are computed inside the pass, from what this very pass has read.

Shapes: B rows, S columns, N = B·S tokens, L chosen layers, d hidden size, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...errors import BadInput
from ...frozen import Edit
from ..coding.encoding import Active, pre_activations
from ..coding.nonlinear import batchtopk_mask
from ..source import SourceLayer, scaled
from ..transcoder import Transcoder

Factors = Mapping[tuple[int, int], float]  # (layer of the model, feature) -> what to multiply it by
Change = Callable[[int, Active], Active]  # index of a chosen layer and its active features -> others in their place
Keeps = Callable[[Tensor], Tensor]  # what flows, `[B, S, d]` -> the columns that keep the model's own values, `[B, S]`


class _Totals:
    """What all sources write up to a target. Targets are asked one after the other within a pass, and each source is
    encoded and decoded once: what was read is recognised by being the same tensor.

    Args:
        lens: the transcoder.
        change: what is made of the active features of each source, or None where nothing is changed.
        keeps: which columns are not replaced.
    """

    def __init__(self, lens: Transcoder, change: Change | None, keeps: Keeps) -> None:
        self.lens, self.change, self.keeps = lens, change, keeps
        self.read: list[Tensor] = []
        self.sums: dict[int, Tensor] = {}

    def at(self, target: int, sources: Mapping[int, Tensor]) -> Tensor:
        """What sources (index -> `[B, S, d]`) write to a target, in standardised space: `[N, d]`."""
        if not self.lens.config.crosslayer:
            (x,) = sources.values()
            return self._pieces(target, x)[0]
        found = list(sources.values())
        if not all(old is new for old, new in zip(self.read, found, strict=False)) or len(self.read) > len(found):
            self.read, self.sums = [], {}
        for index in range(len(self.read), len(found)):
            for step, piece in enumerate(self._pieces(index, found[index])):
                above = index + step
                self.sums[above] = self.sums[above] + piece if above in self.sums else piece
        self.read = found
        return self.sums[target]

    def _pieces(self, index: int, read: Tensor) -> list[Tensor]:
        lens = self.lens
        source = lens.layers_in_order[index]
        x = standardised(lens, index, read)
        active = source(x, *self._competing(source, x, read))
        if self.change is not None:
            active = self.change(index, active)
        return lens.targets.pieces(index, active, source)

    def _competing(self, source: SourceLayer, x: Tensor, read: Tensor) -> tuple[Tensor, Tensor] | tuple[()]:
        """Of a BatchTopK, pre-activations `[N, F]` and which are active: the tokens that are replaced compete among
        themselves, not with padding and first tokens."""
        config = self.lens.config
        if config.nonlinearity != "batchtopk":
            return ()
        pre = pre_activations(x, *source.encoder)
        rows = ~self.keeps(read).flatten().to(x.device)
        active = torch.zeros_like(pre, dtype=torch.bool)
        active[rows] = batchtopk_mask(pre[rows], config.k or 0, source.shards)
        return pre, active


def standardised(lens: Transcoder, index: int, read: Tensor) -> Tensor:
    """`[N, d]` in standardised space, on the lens's device."""
    flat = read.reshape(-1, read.shape[-1]).to(lens.device, torch.float32)
    return (flat - lens.standardiser.mean[index]) / lens.standardiser.scale[index]


def replaced(lens: Transcoder, batch: Mapping[str, Any], factors: Factors, first: bool = True) -> list[Edit]:
    """Every written site replaced, except in the column of each row's first token and in padding; `first` is false
    where a pass has new tokens alone, all of which are replaced."""
    change = _scaling(_per_layer(lens, factors, otherwise=1.0)) if factors else None
    return replaced_by(lens, batch, change, first)


def replaced_by(lens: Transcoder, batch: Mapping[str, Any], change: Change | None, first: bool = True) -> list[Edit]:
    """The same with other active features in the place of those that a layer has."""
    keeps = _keeping(batch, first, "replaced")
    totals = _Totals(lens, change, keeps)
    scale = lens.targets.standardiser
    bias, skip = lens.targets.bias, lens.targets.skip

    def value(target: int, read: Mapping[str, Tensor], sources: Mapping[int, Tensor]) -> Tensor:
        own = read[lens.config.written_sites[target]]
        written = totals.at(target, sources) + bias[target]
        if skip is not None:
            written = written + standardised(lens, target, sources[target]) @ skip[target].T
        written = written * scale.scale[target] + scale.mean[target]
        return torch.where(keeps(own).unsqueeze(-1), own, written.view(own.shape).to(own))

    return _edits(lens, value, "replace")


def changed(lens: Transcoder, batch: Mapping[str, Any], factors: Factors, first: bool = True) -> list[Edit]:
    """What a change of some features writes, added to every written site: the model's own values stay."""
    changes = _per_layer(lens, {key: factor - 1 for key, factor in factors.items()}, otherwise=0.0)
    return changed_by(lens, batch, _scaling(changes), first)


def changed_by(lens: Transcoder, batch: Mapping[str, Any], change: Change, first: bool = True) -> list[Edit]:
    """The same where `change` gives the difference to the active features of each layer."""
    keeps = _keeping(batch, first, "changed")
    totals = _Totals(lens, change, keeps)
    scale = lens.targets.standardiser.scale

    def value(target: int, read: Mapping[str, Tensor], sources: Mapping[int, Tensor]) -> Tensor:
        own = read[lens.config.written_sites[target]]
        written = (totals.at(target, sources) * scale[target]).view(own.shape).to(own)
        return torch.where(keeps(own).unsqueeze(-1), torch.zeros_like(own), written)

    return _edits(lens, value, "add")


def _edits(lens: Transcoder, value: Callable[..., Tensor], mode: Any) -> list[Edit]:
    config = lens.config
    if config.across_layers:
        fix = "Give it thresholds first: lens.calibrated(...)."
        raise BadInput("across_layers", True, fix, why="inside a pass, layers above are not known yet")

    def at(target: int) -> Edit:
        used = range(target + 1) if config.crosslayer else range(target, target + 1)

        def computed(read: Mapping[str, Tensor]) -> Tensor:
            return value(target, read, {index: read[config.read_sites[index]] for index in used})

        reads = [*(config.read_sites[index] for index in used), config.written_sites[target]]
        return Edit(config.written_sites[target], computed, None, mode, reads=tuple(dict.fromkeys(reads)))

    return [at(target) for target in range(len(config.window))]


def _keeping(batch: Mapping[str, Any], first: bool, name: str) -> Keeps:
    """`kept_columns` of a batch, for what flows in its pass; raise in a pass of another one, where it could only be
    guessed which column is a first token."""
    mask = batch.get("attention_mask")

    def keeps(own: Tensor) -> Tensor:
        width = own.shape[1]
        if not first:
            return torch.zeros(own.shape[:2], dtype=torch.bool, device=own.device)
        if width == 1 if mask is None else width != mask.shape[1]:
            fix = f"For new tokens, give generate new_edits=lens.{name}(..., first=False)."
            why = "the first token of a text is never replaced, and these columns may be the first or new ones"
            raise BadInput("columns", width, fix, why)
        return kept_columns(batch, own)

    return keeps


def kept_columns(batch: Mapping[str, Any], ids: Tensor) -> Tensor:
    """Columns `[B, S]` in which the model keeps its own values: what is no token, or the first one of its row. The
    columns are those of `ids`, or of anything of its shape."""
    mask = batch.get("attention_mask")
    if mask is None:
        mask = torch.ones(ids.shape[:2], dtype=torch.long)
    mask = mask.to(ids.device)
    return (mask.cumsum(1) <= 1) | (mask == 0)


def _scaling(factors: Sequence[Tensor]) -> Change:
    """Features times a factor each, `[F]` per chosen layer."""
    return lambda index, active: scaled(active, factors[index])


def _per_layer(lens: Transcoder, factors: Factors, otherwise: float) -> list[Tensor]:
    config = lens.config
    found = torch.full((len(config.window), config.features), otherwise)
    for (layer, feature), factor in factors.items():
        if layer not in config.window:
            raise BadInput("layer", layer, f"The lens has features in layers {config.window}.")
        if not 0 <= feature < config.features:
            raise BadInput("feature", feature, f"Each layer has {config.features}: use 0 to {config.features - 1}.")
        found[config.window.index(layer), feature] = factor
    return list(found.to(lens.device))
