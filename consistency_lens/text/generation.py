"""Words with a gradient: rollouts that can be replayed, and the straight-through look-up.

A token is chosen as `argmax(l + g)`, with Gumbel noise `g` that depends on a seed and the step alone. So the rollout
runs without gradient and keeps nothing but ids, and the teacher-forced pass and its backward make the same noise again
when they need it.

Shapes: B rows, T tokens of a text, V vocabulary, d hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..base.modeling import Code

# Seeds of different steps of one rollout lie this far apart, so that neighbouring rollouts share none.
_STRIDE = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class Noise:
    """Gumbel noise of one rollout: a function of the seed and the step.

    Args:
        seed: of the rollout; None for no noise at all, which makes every choice the likeliest token.
        temperature: of the softmax whose gradient stands in for that of the choice.
    """

    seed: int | None
    temperature: float = 1.0

    def ahead(self, steps: int) -> Noise:
        """The same noise as seen from `steps` later: its step 0 is our step `steps`."""
        return self if self.seed is None else Noise(self.seed + steps * _STRIDE, self.temperature)

    def at(self, step: int, like: Tensor) -> Tensor | float:
        """Noise for logits `[B, V]` of one step, in float32."""
        if self.seed is None:
            return 0.0
        generator = torch.Generator(like.device).manual_seed((self.seed + (step + 1) * _STRIDE) % 2**63)
        uniform = torch.rand(like.shape, generator=generator, device=like.device)
        smallest = torch.finfo(uniform.dtype).tiny
        return uniform.clamp_min_(smallest).log_().neg_().clamp_min_(smallest).log_().neg_()

    def choose(self, step: int, logits: Tensor) -> Tensor:
        """Token ids `[B]` for logits `[B, V]`: exact samples of their softmax, by the Gumbel-max trick."""
        return (logits.float() + self.at(step, logits)).argmax(-1)

    def soften(self, step: int, logits: Tensor) -> Tensor:
        """`softmax((l + g) / tau)` `[B, V]`: what the choice is taken to be in the backward pass."""
        return ((logits.float() + self.at(step, logits)) / self.temperature).softmax(-1)


@dataclass(frozen=True)
class Words(Code):
    """Texts, each up to its own end.

    Args:
        ids: `[B, T]`; what follows a text's end is padding.
        mask: `[B, T]`, 1 for the tokens of the text: what people and the encoder see.
    """

    ids: Tensor
    mask: Tensor

    @classmethod
    def ended_by(cls, ids: Tensor, stop_id: int, pad_id: int) -> Words:
        """Cut sampled ids at the first `stop_id` of each row."""
        mask = ((ids == stop_id).long().cumsum(1) == 0).long()
        return cls(torch.where(mask.bool(), ids, pad_id), mask)

    def written(self, stop_id: int) -> tuple[Tensor, Tensor]:
        """Ids and mask `[B, T]` with the choice to stop behind each text that is shorter than T: what the decoder
        is responsible for."""
        ends = torch.nn.functional.pad(self.mask[:, :-1], (1, 0), value=1) - self.mask
        return torch.where(ends.bool(), stop_id, self.ids), self.mask + ends

    def take(self, rows: Tensor) -> Words:
        return Words(self.ids[rows], self.mask[rows])

    def to(self, device: torch.device) -> Words:
        return Words(self.ids.to(device), self.mask.to(device))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> Tensor:
        return self.mask.sum(1)


def roll_out(step: Callable[[Tensor | None], Tensor], length: int, noise: Noise) -> Tensor:
    """Sample `length` tokens; `step(ids [B] or None)` takes the last choice and gives the next logits `[B, V]`."""
    ids: list[Tensor] = []
    for t in range(length):
        ids.append(noise.choose(t, step(ids[-1] if ids else None)))
    return torch.stack(ids, dim=1)


class _LookUp(torch.autograd.Function):
    """`y @ table` with `y = onehot(ids) + softmax(z) - stopgrad(softmax(z))` and `z = (logits + g) / tau`.

    Forward is a look-up that allocates nothing of size V. Backward applies the Jacobian of the softmax to
    `grad @ table^T`, in place.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor, table: Tensor, noise: Noise) -> Tensor:
        ctx.save_for_backward(logits, ids, table)
        ctx.noise = noise
        return torch.nn.functional.embedding(ids, table)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:
        logits, ids, table = ctx.saved_tensors
        grad_logits = grad_table = None
        if ctx.needs_input_grad[0]:
            # One product for all steps: the table is read once.
            of_choices = grad[:, ids.shape[1] - logits.shape[1] :]
            wanted = (of_choices.to(table.dtype) @ table.T).to(logits.dtype)
            grad_logits = _through_softmax(ctx.noise, logits, wanted)
        if ctx.needs_input_grad[2]:
            grad_table = torch.zeros_like(table).index_add_(0, ids.flatten(), grad.flatten(0, 1).to(table.dtype))
        return grad_logits, None, grad_table, None


class _Pick(torch.autograd.Function):
    """`sum_v y_v values_v` with the same `y`: the value at the chosen token, with a gradient to the choice."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor, values: Tensor, noise: Noise) -> Tensor:
        ctx.save_for_backward(logits, ids, values)
        ctx.noise = noise
        return values.gather(-1, ids.unsqueeze(-1)).squeeze(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:
        logits, ids, values = ctx.saved_tensors
        grad_logits = grad_values = None
        if ctx.needs_input_grad[0]:
            grad_logits = _through_softmax(ctx.noise, logits, (grad.unsqueeze(-1) * values).to(logits.dtype))
        if ctx.needs_input_grad[2]:
            grad_values = torch.zeros_like(values).scatter_(-1, ids.unsqueeze(-1), grad.unsqueeze(-1).to(values.dtype))
        return grad_logits, None, grad_values, None


def _through_softmax(noise: Noise, logits: Tensor, wanted: Tensor) -> Tensor:
    """The gradient `[B, T, V]` to the logits, where `wanted` is the one to `softmax((l + g) / tau)`: in its place.

    One step of the text at a time: nothing but the result is of size T times V.
    """
    for t in range(logits.shape[1]):
        soft, here = noise.soften(t, logits[:, t]), wanted[:, t]
        here.sub_((soft * here).sum(-1, keepdim=True)).mul_(soft).div_(noise.temperature)
    return wanted


def straight_through_embed(logits: Tensor, ids: Tensor, table: Tensor, noise: Noise) -> Tensor:
    """Embeddings of chosen tokens, with the straight-through gradient to the logits they came from.

    Args:
        logits: `[B, T, V]` that the choice was made from.
        ids: `[B, T]` that were chosen, by `noise`. Columns before these are looked up with them: one gradient of the
            size of the table instead of two.
        table: `[V, d]` embedding weights.
        noise: the noise of the choice; its temperature sets the gradient.
    """
    return _LookUp.apply(logits, ids, table, noise)


def straight_through_pick(logits: Tensor, ids: Tensor, values: Tensor, noise: Noise) -> Tensor:
    """`values [B, T, V]` at the chosen tokens, `[B, T]`, with the same gradient: for terms that score each token."""
    return _Pick.apply(logits, ids, values, noise)


def log_probability_of(logits: Tensor, ids: Tensor) -> Tensor:
    """log-probability of each chosen token, `[B, T]`, in float32: what a policy gradient multiplies."""
    chosen = logits.gather(-1, ids.unsqueeze(-1)).squeeze(-1).float()
    return chosen - logits.float().logsumexp(-1)


def leave_one_out(rewards: Tensor) -> Tensor:
    """Advantages of `[B, G]` rewards: each minus the mean of the row's other rollouts."""
    others = rewards.shape[1] - 1
    return (rewards - rewards.mean(1, keepdim=True)) * (rewards.shape[1] / others)
