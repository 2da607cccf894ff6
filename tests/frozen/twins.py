"""The cheap swap beside its slow twin, for the tests and for `benchmarks/swap.py --architectures`."""

from __future__ import annotations

import torch

from consistency_lens.frozen import Edit, FrozenLM
from consistency_lens.frozen.sites import LAYERED

SIZE = 32
SITES = ["embed", *(f"{stage}.{i}" for i in range(4) for stage in LAYERED)]

Batch = dict[str, torch.Tensor]


def value(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, SIZE, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def slow_twin(lm: FrozenLM, batch: Batch, edits: list[Edit], horizon: int) -> torch.Tensor:
    """The whole sequence, continuation and all, with the edits at P."""
    if not horizon:
        return lm.logits(batch, edits, keep=1)
    longer = {
        "input_ids": torch.cat([batch["input_ids"], batch["continuation_ids"][:, :horizon]], 1),
        "attention_mask": torch.cat([batch["attention_mask"], batch["continuation_mask"][:, :horizon]], 1),
    }
    last = batch["input_ids"].shape[1] - 1
    return lm.logits(longer, [Edit(e.site, e.value, last, e.mode) for e in edits], keep=1 + horizon)


def judged(logits: torch.Tensor, values: list[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Logits and gradients of one scalar that depends on all of them unevenly."""
    weight = torch.randn(logits.shape, generator=torch.Generator().manual_seed(7))
    return logits.detach(), list(torch.autograd.grad((logits.log_softmax(-1) * weight).sum(), values))


def largest_difference(
    lm: FrozenLM, batch: Batch, sites: list[str], horizon: int, mode: str = "replace"
) -> tuple[float, float]:
    """Between the cheap swap and its slow twin, one site at a time: of the logits, and of the gradients."""
    prefix, logit_error, gradient_error = lm.prefix(batch), 0.0, 0.0
    for nth, site in enumerate(sites):
        v = value(len(batch["input_ids"]), nth)
        edit = Edit(site, v, mode=mode)
        cheap, (cheap_gradient,) = judged(prefix.logits(edit, horizon), [v])
        slow, (slow_gradient,) = judged(slow_twin(lm, batch, [edit], horizon), [v])
        assert cheap.shape == slow.shape == (len(v), 1 + horizon, lm.vocab_size)
        assert slow_gradient.abs().amax(-1).min() > 1e-3, "a gradient of nothing agrees with anything"
        logit_error = max(logit_error, (cheap - slow).abs().max().item())
        gradient_error = max(gradient_error, (cheap_gradient - slow_gradient).abs().max().item())
    return logit_error, gradient_error
