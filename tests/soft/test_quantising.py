"""Few bits per coordinate: errors of at most half a step, the smallest possible scales, the gradient left alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from consistency_lens.errors import BadInput
from consistency_lens.soft.bytes.quantising import BITS, dequantise, quantise, quantise_ste, top_level
from consistency_lens.soft.bytes.wire import Wire

HALVES = np.sort(np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64))  # all finite ones from 0 up


def slow_quantise(vector: list[float], bits: int, group: int) -> tuple[list[int], list[float]]:
    """The slow twin, one number after the other, in double precision."""
    top, levels, scales = 2 ** (bits - 1) - 1, [], []
    for start in range(0, len(vector), group):
        part = vector[start : start + group]
        scale = float(HALVES[np.searchsorted(HALVES * top, max(abs(x) for x in part))])
        scales.append(scale)
        levels += [round(float(np.float32(x) / np.float32(scale))) if scale else 0 for x in part]
    return levels, scales


@st.composite
def codes(draw: st.DrawFn) -> tuple[torch.Tensor, int]:
    """A code whose vectors are of very different size, and a group."""
    M, d_z = draw(st.integers(1, 4)), draw(st.integers(1, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    sizes = draw(st.lists(st.sampled_from([0.0, 1e-9, 1e-6, 1e-3, 1.0, 300.0, 60_000.0]), min_size=M, max_size=M))
    code = (2 * torch.rand(M, d_z, generator=generator) - 1) * torch.tensor(sizes)[:, None]
    return code, draw(st.integers(1, d_z))


@settings(max_examples=60, deadline=None)
@given(codes(), st.sampled_from([8, 6, 4]))
def test_it_rounds_as_the_slow_way_does(drawn: tuple[torch.Tensor, int], bits: int) -> None:
    code, group = drawn
    levels, scales = quantise(code, bits, group)
    for vector, found, own in zip(code.tolist(), levels.tolist(), scales.tolist(), strict=True):
        assert (found, own) == slow_quantise(vector, bits, group)


@settings(max_examples=60, deadline=None)
@given(codes(), st.sampled_from([8, 6, 4]))
def test_the_error_is_at_most_half_a_step(drawn: tuple[torch.Tensor, int], bits: int) -> None:
    code, group = drawn
    levels, scales = quantise(code, bits, group)
    assert levels.abs().max() <= top_level(bits)
    step = scales.double().repeat_interleave(group, 1)[:, : code.shape[1]]
    error = (dequantise(levels, scales, group).double() - code.double()).abs()
    assert (error <= step * (0.5 + 1e-5)).all()
    # The step itself exceeds what the group's largest value needs by one part in 1024 at most.
    largest = torch.stack([part.abs().amax(1) for part in code.double().split(group, 1)], 1)
    assert (scales.double() <= largest / top_level(bits) * (1 + 2**-10) + 2**-24).all()


@settings(max_examples=40, deadline=None)
@given(codes(), st.sampled_from(BITS))
def test_training_sees_what_a_wire_gives_back(drawn: tuple[torch.Tensor, int], bits: int) -> None:
    code, group = drawn
    assert torch.equal(quantise_ste(code, bits, group), Wire.of(code, bits, group).codes())


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_is_that_of_the_identity(bits: int, dtype: torch.dtype) -> None:
    code = torch.randn(2, 3, 10, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    weights = torch.randn(2, 3, 10, generator=torch.Generator().manual_seed(1)).to(dtype)
    rounded = quantise_ste(code, bits, 4)
    (rounded * weights).sum().backward()
    assert code.grad is not None and torch.equal(code.grad, weights)
    assert rounded.dtype == dtype
    for alone, in_a_batch in zip(code, rounded, strict=True):
        assert torch.equal(Wire.of(alone, bits, 4).codes().to(dtype), in_a_batch)


def test_fewer_bits_cost_more() -> None:
    code = torch.randn(32, 256, generator=torch.Generator().manual_seed(0))
    errors = [(quantise_ste(code, bits, 32) - code).square().mean().item() for bits in BITS]
    assert errors == sorted(errors) and errors[0] < 1e-6 and 1e-3 < errors[-1] < 2e-2


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e9])
def test_what_no_wire_could_hold_does_not_look_finite_in_training(bits: int, value: float) -> None:
    code = torch.ones(1, 4)
    code[0, 2] = value
    rounded = quantise_ste(code, bits, 2)
    assert not rounded[0, 2].isfinite() and rounded[0, :2].isfinite().all()


def test_other_bits_and_groups_are_refused() -> None:
    with pytest.raises(BadInput, match=r"bits=5.*16 \(float16\), 8, 6 or 4"):
        quantise_ste(torch.ones(1, 4), 5, 2)
    with pytest.raises(BadInput, match=r"bits=8\.0"):
        quantise_ste(torch.ones(1, 4), 8.0, 2)  # type: ignore[arg-type]
    for group in (0, 2.0):
        with pytest.raises(BadInput, match=rf"group={group}.*from 1 up"):
            quantise_ste(torch.ones(1, 4), 8, group)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=r"d_z=0"):
        quantise_ste(torch.ones(1, 0), 8, 2)


@pytest.mark.gpu
@pytest.mark.parametrize("bits", BITS)
def test_a_gpu_finds_the_same_bytes(bits: int) -> None:
    code = torch.randn(512, 256, generator=torch.Generator().manual_seed(0)).exp()
    assert Wire.of(code.cuda(), bits, 32) == Wire.of(code, bits, 32)
    assert torch.equal(quantise_ste(code.cuda(), bits, 32).cpu(), quantise_ste(code, bits, 32))
