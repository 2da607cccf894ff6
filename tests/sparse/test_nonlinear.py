"""Which features are active, and what gradients they pass on."""

from __future__ import annotations

import pytest
import torch

from consistency_lens.sparse.coding.nonlinear import (
    SAMPLE,
    batchtopk_mask,
    in_reach,
    jumprelu,
    largest,
    topk_mask,
)

THETA, WIDTH = 0.5, 0.2


def slopes(pre: list[float]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x = torch.tensor([[value] for value in pre]).requires_grad_()
    theta = torch.tensor([THETA]).requires_grad_()
    f = jumprelu(x, theta, WIDTH)
    to_x, to_theta = torch.autograd.grad((f * torch.arange(1.0, len(pre) + 1)[:, None]).sum(), [x, theta])
    return f[:, 0], to_x[:, 0], to_theta[0]


def test_jumprelu_is_exact_in_x_and_a_rectangle_in_theta() -> None:
    f, to_x, to_theta = slopes([-1.0, 0.3, 0.45, 0.5, 0.55, 2.0])
    torch.testing.assert_close(f, torch.tensor([0.0, 0.0, 0.0, 0.0, 0.55, 2.0]))
    # Nothing leaks for 0 < x < θ, and at θ itself a feature is off.
    torch.testing.assert_close(to_x, torch.tensor([0.0, 0.0, 0.0, 0.0, 5.0, 6.0]))
    torch.testing.assert_close(to_theta, torch.tensor(-THETA / WIDTH * (3 + 4 + 5)))


def test_every_threshold_has_its_own_gradient() -> None:
    pre = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    theta = torch.tensor([0.1, 0.2, 0.3, 0.4]).requires_grad_()
    (found,) = torch.autograd.grad(jumprelu(pre, theta, 0.5).sum(), theta)
    near = (pre - theta.detach()).abs() < 0.25
    torch.testing.assert_close(found, -theta.detach() / 0.5 * near.sum(0))


@pytest.mark.parametrize("bandwidth", [0.01, 0.3, 2.0])
def test_what_is_out_of_reach_has_no_gradient(bandwidth: float) -> None:
    pre = torch.randn(200, 3, generator=torch.Generator().manual_seed(1))
    theta = torch.full((3,), THETA)
    reached = in_reach(pre, theta, bandwidth)
    each = theta.expand_as(pre).clone().requires_grad_()
    x = pre.clone().requires_grad_()
    to_x, to_theta = torch.autograd.grad(jumprelu(x, each, bandwidth).sum(), [x, each])
    assert torch.equal((to_x != 0) | (to_theta != 0), reached)


def test_topk_keeps_the_largest_of_each_token() -> None:
    pre = torch.tensor([[3.0, 1.0, 2.0, -1.0], [-3.0, -1.0, 0.5, -2.0]])
    kept = topk_mask(pre, 2)
    assert kept.tolist() == [[True, False, True, False], [False, False, True, False]]  # nothing below 0


def test_batchtopk_keeps_k_per_token_in_the_mean() -> None:
    pre = torch.tensor([[9.0, 8.0, 7.0], [1.0, 6.0, 2.0]])
    assert batchtopk_mask(pre, 2).tolist() == [[True, True, True], [False, True, False]]
    layers = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(2)).abs()
    together = batchtopk_mask(layers, 2)
    assert int(together.sum()) == 3 * 5 * 2
    assert float(layers[together].min()) > float(layers[~together].max())
    alone = torch.stack([batchtopk_mask(layer, 2) for layer in layers])
    assert alone.sum((1, 2)).tolist() == [10, 10, 10] and not torch.equal(alone, together)


@pytest.mark.parametrize("kind", ["normal", "few rows hold them", "few columns hold them", "equal", "sorted"])
def test_what_a_sample_bounds_is_what_sorting_all_finds(kind: str) -> None:
    rows, width, generator = 512, 1536, torch.Generator().manual_seed(4)
    pre = torch.randn(rows, width, generator=generator)
    if kind == "few rows hold them":
        pre[:3] += 50
    elif kind == "few columns hold them":
        pre[:, :: width // 8] += 50
    elif kind == "equal":
        pre = pre.round()
    elif kind == "sorted":
        pre = pre.flatten().sort().values.view(rows, width)
    assert pre.numel() > 2 * SAMPLE  # a sample is drawn
    count = 12 * rows
    found = largest(pre.flatten(), count, width)
    assert len(found.unique()) == count
    slow = pre.flatten().topk(count).values
    assert torch.equal(pre.flatten()[found].sort(descending=True).values, slow)
    if kind != "equal":  # where numbers are equal, which of them are taken is open
        assert batchtopk_mask(pre, 12).equal((pre >= slow[-1]) & (pre > 0))
