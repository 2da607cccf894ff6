"""The terms of the objective, unweighted; the trainer weighs them by schedules.

    MSE + λ · Σ tanh(c ‖W_dec‖ f) + α · Σ_dead relu(θ - x) ‖W_dec‖ + β · AuxK

Everything is in standardised space, so that no site counts more than another.

Shapes: N tokens, L layers, d hidden size, F features, D dead features of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from ..coding.decoding import causal_decode
from ..coding.encoding import Active
from ..coding.entries import Entries
from ..coding.nonlinear import topk_mask
from ..coding.sharing import ALONE, Shards

if TYPE_CHECKING:
    from ..modeling import CrosslayerTranscoder
    from ..transcoder import TranscoderOutput

SPARSITY, STEEPNESS = 2e-4, 0.1  # λ and c of the seed
PREACTIVATION, AUXILIARY = 1e-6, 1 / 32  # α and β


def mse(reconstruction: Tensor, target: Tensor) -> Tensor:
    """(1 / N L d) Σ (ŷ - y)²."""
    return functional.mse_loss(reconstruction.float(), target.float())


class _TanhSum(torch.autograd.Function):
    """Σ tanh(c ‖W_dec‖ f) of a dense f. The backward pass computes the tanh again: nothing as large as f is kept."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, lengths: Tensor, steepness: float) -> Tensor:
        ctx.save_for_backward(features, lengths)
        ctx.steepness = steepness
        return torch.tanh(steepness * lengths * features).sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        features, lengths = ctx.saved_tensors
        # c (1 - tanh²), in one tensor.
        slope = torch.tanh_(ctx.steepness * lengths * features).square_().neg_().add_(1)
        slope *= ctx.steepness * grads[0]
        to_lengths = torch.einsum("nf,nf->f", slope, features)
        return slope.mul_(lengths), to_lengths, None


def tanh_sparsity(active: Sequence[Active], norms: Sequence[Tensor], steepness: float = STEEPNESS) -> Tensor:
    """(1 / N) Σ_n Σ_j tanh(c ‖W_dec,j‖ f_nj), over the features of all layers. It saturates: what is active strongly
    is not made weaker."""
    total = norms[0].new_zeros(())
    for found, length in zip(active, norms, strict=True):
        if isinstance(found, Entries):
            total = total + torch.tanh(steepness * length[found.features] * found.values).sum()
        else:
            total = total + _TanhSum.apply(found, length, steepness)
    return total / max(1, active[0].shape[0])


def preactivation_loss(pre: Sequence[Tensor], thresholds: Sequence[Tensor | float], norms: Sequence[Tensor]) -> Tensor:
    """(1 / N) Σ relu(θ - x) ‖W_dec‖: a gradient for features that are never active, `[N, D]` per layer."""
    parts = [
        (functional.relu(threshold - own) * length.detach()).sum() / max(1, len(own))
        for own, threshold, length in zip(pre, thresholds, norms, strict=True)
    ]
    return torch.stack(parts).sum()


def auxiliary_loss(
    pre: Sequence[Tensor], decoders: Sequence[Tensor], error: Tensor, k: int, shards: Shards = ALONE
) -> Tensor:
    """‖e - ê‖² / ‖e‖², where ê is what the k dead features of each layer that are nearest to being active make of the
    error e of all others (https://arxiv.org/abs/2406.04093, appendix A.2).

    Args:
        pre: of the dead features, `[N, D]` per layer.
        decoders: their rows, `[D, n·d]` per layer.
        error: `[N, L, d]`; no gradient flows into it.
        k: how many per token and layer.
        shards: how features are spread over processes.
    """
    active = [torch.where(topk_mask(own.detach(), k, shards), own, 0.0) for own in pre]
    error = error.detach()
    explained = shards.sum(causal_decode(active, decoders, error.shape[2], limit=0.0)[0])
    return (error - explained).square().sum() / error.square().sum().clamp_min(1e-12)


def terms(
    lens: CrosslayerTranscoder,
    output: TranscoderOutput,
    read: Tensor,
    written: Tensor,
    dead: Tensor | None = None,
    steepness: float = STEEPNESS,
    auxiliary_k: int | None = None,
) -> dict[str, Tensor]:
    """All terms by name: `mse`, `sparsity`, and of dead features `preactivation` and `auxiliary`.

    Args:
        lens: what is trained.
        output: of its forward pass.
        read: what it read, `[N, L, d]`, as the model has it.
        written: what it has to reconstruct, `[N, L, d]`, as the model has it.
        dead: which features are dead, `[L, F]`; None leaves their terms out.
        steepness: c.
        auxiliary_k: dead features per token and layer that the auxiliary loss uses; default half the hidden size.
    """
    assert output.reconstruction is not None
    target = lens.targets.standardiser(written.float())
    norms = output.lengths
    sparsity = lens.shards.sum(tanh_sparsity(output.active, norms, steepness))
    found = {"mse": mse(output.reconstruction, target), "sparsity": sparsity}
    if dead is None:
        return found
    if not bool(dead.any()):
        nothing = found["mse"].new_zeros(())
        return {**found, "preactivation": nothing, "auxiliary": nothing}
    pre, thresholds, lengths, decoders = [], [], [], []
    for i, source in enumerate(lens.layers_in_order):
        rows = dead[i, source.own].to(read.device).nonzero(as_tuple=True)[0]
        (weight, bias), threshold = source.encoder, source.threshold
        x = lens.standardiser.of_site(i, read[:, i].float())
        pre.append(functional.linear(x, weight[rows], bias[rows]))
        thresholds.append(0.0 if threshold is None else threshold[rows])
        lengths.append(norms[i][rows])
        decoders.append(lens.targets.rows(i, source, rows))
    k = auxiliary_k or max(1, lens.config.hidden_size // 2)
    found["preactivation"] = lens.shards.sum(preactivation_loss(pre, thresholds, lengths))
    found["auxiliary"] = auxiliary_loss(pre, decoders, target - output.reconstruction, k, lens.shards)
    return found
