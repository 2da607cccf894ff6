"""Each formula against itself written out in float64, and at the points where it must be exact or finite."""

import pytest
import torch

from consistency_lens import objectives as o

GENERATOR = torch.Generator().manual_seed(0)
P, Q = (torch.randn(5, 3, 11, generator=GENERATOR) for _ in range(2))
A, B = (torch.randn(7, 6, generator=GENERATOR) * 3 for _ in range(2))


def test_kl_written_out() -> None:
    p, q = P.double().softmax(-1), Q.double().softmax(-1)
    torch.testing.assert_close(o.kl_of(P, Q).double(), (p * (p / q).log()).sum(-1).mean(1), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(
        o.kl_of(P[:, 0], Q[:, 0]).double(), (p * (p / q).log()).sum(-1)[:, 0], rtol=1e-5, atol=1e-7
    )


def test_kl_puts_the_original_first() -> None:
    sharp, flat = torch.tensor([[9.0, 0.0, 0.0]]), torch.zeros(1, 3)
    assert o.kl_of(sharp, flat) == pytest.approx(torch.tensor(3.0).log().item(), abs=5e-3)
    assert o.kl_of(flat, sharp) > 4


def test_kl_to_itself_is_exactly_zero() -> None:
    assert torch.equal(o.kl_of(P * 40, P * 40), torch.zeros(5))


def test_kl_of_half_precision_is_computed_in_full() -> None:
    logits = (P * 20).bfloat16()
    torch.testing.assert_close(o.kl_of(logits, logits.flip(0)), o.kl_of(logits.float(), logits.flip(0).float()))


def test_kl_mask_leaves_columns_out_even_when_they_are_nan() -> None:
    mask = torch.tensor([[1, 1, 0]]).expand(5, 3)
    spoiled = P.clone()
    spoiled[:, 2] = float("nan")
    torch.testing.assert_close(o.kl_of(spoiled, Q, mask), o.kl_of(P[:, :2], Q[:, :2]))


def test_kl_gradient_is_q_minus_p() -> None:
    logits = Q[:, 0].clone().requires_grad_()
    o.kl_of(P[:, 0], logits).sum().backward()
    torch.testing.assert_close(logits.grad, Q[:, 0].softmax(-1) - P[:, 0].softmax(-1))


def test_nll_written_out() -> None:
    ids = torch.randint(11, (5, 3), generator=GENERATOR)
    mask = torch.tensor([[1, 0, 1]]).expand(5, 3)
    log_p = P.double().log_softmax(-1)
    chosen = log_p.gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(o.nll_of(P, ids).double(), -chosen.mean(1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(o.nll_of(P, ids, mask).double(), -chosen[:, [0, 2]].mean(1), rtol=1e-5, atol=1e-6)


def test_direction_and_norm_part_the_error() -> None:
    assert o.direction_error_of(A * 5, A).abs().max() < 1e-6
    torch.testing.assert_close(o.direction_error_of(A, B), 2 * (1 - o.cosine_of(A, B)))
    torch.testing.assert_close(o.norm_ratio_of(A * 3, A), torch.full((7,), 3.0))


@pytest.mark.parametrize("error", [o.direction_error_of, o.cosine_of])
def test_gradients_stay_finite_at_zero(error) -> None:
    zero = torch.zeros(2, 6, requires_grad=True)
    error(zero, A[:2]).sum().backward()
    assert zero.grad.isfinite().all()


def test_fve_at_its_anchors() -> None:
    mean = A.mean(0)
    assert o.fve(A, A, mean) == 1
    assert o.fve(mean.expand_as(A), A, mean) == 0
    assert o.fve(-A, A, mean) < 0
    worse = A + 0.5 * B
    expected = 1 - ((A - worse).double() ** 2).sum() / ((A - mean).double() ** 2).sum()
    assert o.fve(worse, A, mean).item() == pytest.approx(expected.item(), rel=1e-5)


def test_recovered_at_its_anchors() -> None:
    baseline = torch.tensor([2.0, 4.0])
    assert o.recovered(torch.zeros(2), baseline) == 1
    assert o.recovered(baseline.flip(0), baseline) == 0
    assert o.recovered(2 * baseline, baseline) == -1


def test_top1() -> None:
    assert o.top1_of(torch.eye(3), torch.eye(3).flip(0)).tolist() == [0, 1, 0]
