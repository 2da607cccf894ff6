"""Thresholds from counts: as many active as before, whatever the parts in which they were counted."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transcoders import activations, small_lens

from consistency_lens.sparse.coding.calibrating import Calibration, count_ratios, scale_thresholds
from consistency_lens.sparse.coding.nonlinear import topk_mask


@settings(max_examples=15, deadline=None)
@given(k=st.integers(1, 8), scale=st.sampled_from([1e-4, 1.0, 1e4]), cut=st.integers(0, 500), seed=st.integers(0, 3))
def test_thresholds_keep_the_count_in_parts_and_whole(k: int, scale: float, cut: int, seed: int) -> None:
    pre = scale * torch.randn(500, 16, generator=torch.Generator().manual_seed(seed)).abs()
    mask = topk_mask(pre, k)
    whole, first, second = Calibration(1), Calibration(1), Calibration(1)
    whole.see(0, pre, mask)
    first.see(0, pre[:cut], mask[:cut])
    second.see(0, pre[cut:], mask[cut:])
    both = first.merge(second)
    assert torch.equal(both.histogram, whole.histogram) and torch.equal(both.active, whole.active)
    threshold = whole.thresholds()
    assert torch.equal(both.thresholds(), threshold)
    assert int((pre > threshold).sum()) == pytest.approx(500 * k, rel=0.02)


def test_nothing_active_puts_the_threshold_above_everything() -> None:
    pre = torch.rand(20, 4)
    counts = Calibration(1)
    counts.see(0, pre, torch.zeros(20, 4, dtype=torch.bool))
    assert not bool((pre > counts.thresholds()).any())


def test_thresholds_are_scaled_until_as_many_are_active_as_wanted() -> None:
    lens, read = small_lens(features=64), activations(400)
    before = [source.threshold.detach().clone() for source in lens.layers_in_order if source.threshold is not None]
    parts = [count_ratios(lens, [part]) for part in read.split(150)]
    counts = parts[0][0].merge(parts[1][0]).merge(parts[2][0])
    for l0 in (20.0, 5.0):
        whole, tokens = count_ratios(lens, [read])
        factor = scale_thresholds(lens, whole, tokens, l0)
        active = torch.stack([(each > 0).sum(1) for each in lens.encode(read, limit=0.0)]).double()
        assert float(active.mean()) == pytest.approx(l0, rel=0.02)
    for old, source in zip(before, lens.layers_in_order, strict=True):
        assert source.threshold is not None
        ratio = source.threshold.detach() / old
        torch.testing.assert_close(ratio, torch.full_like(ratio, float(ratio[0])))
    assert factor > 1 and sum(seen for _, seen in parts) == 400
    assert torch.equal(counts.histogram, count_ratios(small_lens(features=64), [read])[0].histogram)
