"""Words with a gradient: rollouts that can be replayed, and the straight-through look-up.

A token is chosen as `argmax(l + g)`, with Gumbel noise `g` that depends on a seed and the step alone. So the rollout
runs without gradient and keeps nothing but ids, and the teacher-forced pass and its backward make the same noise again
when they need it.

Shapes: B rows, T tokens of a text, V vocabulary, d hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ... import vocabulary
from ...base.lens import Code
from ...frozen.generation import stepping
from ...frozen.generation.stepping import Step

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

    @property
    def distinct(self) -> Tensor:
        """Share of the texts that no earlier one equals; counted on the device, and nothing waits for it.

        Told apart by a number of each: in a billion pairs of texts none is mistaken for another.
        """
        columns = torch.arange(1, self.ids.shape[1] + 1, device=self.ids.device)
        mixed = (self.ids + 1) * 0x9E3779B97F4A7C1 + columns * 0x2545F4914F6CDD1D  # products wrap around
        mixed = (mixed ^ (mixed >> 29)) * 0x3F58476D1CE4E5B9
        numbers = (mixed ^ (mixed >> 32)).sum(1).sort().values
        return (1 + (numbers[1:] != numbers[:-1]).sum()) / len(numbers)


def roll_out(step: Step, length: int, noise: Noise) -> Tensor:
    """Sample `length` tokens `[B, T]`, each from the logits that follow the one before it."""
    return stepping.roll_out(step, length, noise.choose)


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
            grad_logits = (of_choices.to(table.dtype) @ table.T).to(logits.dtype)
            for t in range(logits.shape[1]):  # in its place: nothing else is of size T times V
                grad_logits[:, t] = _through_softmax(ctx.noise, t, logits[:, t], grad_logits[:, t])
        if ctx.needs_input_grad[2]:
            grad_table = torch.zeros_like(table).index_add_(0, ids.flatten(), grad.flatten(0, 1).to(table.dtype))
        return grad_logits, None, grad_table, None


class _ChosenLogProbability(torch.autograd.Function):
    """`sum_v y_v log p_v` with the same `y` and `p = softmax(said)`: with a gradient to the choice and to `said`."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor, said: Tensor, noise: Noise) -> Tensor:
        ctx.save_for_backward(logits, ids, said)
        ctx.noise = noise
        return vocabulary.log_probability(said, ids)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:
        logits, ids, said = ctx.saved_tensors
        grad_logits, grad_said = (
            torch.empty_like(x) if ctx.needs_input_grad[i] else None for i, x in ((0, logits), (2, said))
        )
        for t in range(ids.shape[1]):
            here, log_p = grad[:, t : t + 1], said[:, t].float().log_softmax(-1)
            if grad_said is not None:
                grad_said[:, t] = (log_p.exp() * -here).scatter_add_(-1, ids[:, t : t + 1], here)
            if grad_logits is not None:
                grad_logits[:, t] = _through_softmax(ctx.noise, t, logits[:, t], log_p.mul_(here))
        return grad_logits, None, grad_said, None


def _through_softmax(noise: Noise, step: int, logits: Tensor, wanted: Tensor) -> Tensor:
    """The gradient `[B, V]` to the logits of one step, where `wanted` is the one to `softmax((l + g) / tau)`."""
    soft = noise.soften(step, logits)
    wanted = wanted.float()
    return (wanted - (soft * wanted).sum(-1, keepdim=True)).mul_(soft).div_(noise.temperature)


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


def straight_through_log_probability(logits: Tensor, ids: Tensor, said: Tensor, noise: Noise) -> Tensor:
    """log-probability of each chosen token under other logits `said [B, T, V]`, `[B, T]`, with the same gradient."""
    return _ChosenLogProbability.apply(logits, ids, said, noise)


def leave_one_out(rewards: Tensor) -> Tensor:
    """Advantages of `[B, G]` rewards: each minus the mean of the row's other rollouts."""
    others = rewards.shape[1] - 1
    return (rewards - rewards.mean(1, keepdim=True)) * (rewards.shape[1] / others)
