"""Mean and scale from streamed parts, and weights that need no standardisation any more."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from consistency_lens.errors import BadInput
from consistency_lens.sparse.coding.standardising import (
    Moments,
    Standardiser,
    folded_bias,
    folded_decoder,
    folded_encoder,
)


def activations(tokens: int = 60, sites: int = 2, size: int = 4) -> torch.Tensor:
    """Far from the origin, coordinates of very different size."""
    values = torch.randn(tokens, sites, size, generator=torch.Generator().manual_seed(0))
    return values * torch.tensor([0.1, 1.0, 10.0, 100.0]) + 1000.0


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(0, 60), max_size=4))
def test_parts_merge_to_the_whole(cuts: list[int]) -> None:
    values = activations()
    parts = torch.tensor_split(values, sorted(cuts))
    found, whole = Moments.over(parts), values.double()
    assert found.count == 60
    torch.testing.assert_close(found.mean, whole.mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.variance, whole.var(0, correction=0), rtol=1e-9, atol=0)


@pytest.mark.parametrize("kind", ["site", "dimension", "none"])
def test_there_and_back(kind: str) -> None:
    values, standardiser = activations(), Standardiser(2, 4)
    standardiser.fit(Moments.of(values), kind)
    inside = standardiser(values)
    torch.testing.assert_close(standardiser.undo(inside), values)
    deviation = inside.std(0, correction=0)
    if kind == "dimension":
        torch.testing.assert_close(deviation, torch.ones(2, 4), rtol=1e-3, atol=0)
    elif kind == "site":  # coordinates keep their sizes beside each other
        torch.testing.assert_close(deviation.square().mean(1), torch.ones(2), rtol=1e-3, atol=0)
        assert float(deviation[0, 3] / deviation[0, 0]) > 500
    else:
        assert torch.equal(inside, values)
    if kind != "none":
        assert float(inside.mean(0).abs().max()) < 1e-3


def test_a_coordinate_that_never_changes_stays_finite() -> None:
    values, standardiser = activations(), Standardiser(2, 4)
    values[:, 0, 1] = 3.0
    standardiser.fit(Moments.of(values), "dimension")
    assert torch.isfinite(standardiser(values)).all() and float(standardiser(values)[:, 0, 1].abs().max()) == 0.0


def test_statistics_that_cannot_serve_are_refused() -> None:
    standardiser = Standardiser(2, 4)
    with pytest.raises(BadInput, match="other sites"):
        standardiser.fit(Moments.of(activations(sites=3)), "site")
    constant = activations()
    constant[:, 1] = 1.0
    with pytest.raises(BadInput, match="never change"):
        standardiser.fit(Moments.of(constant), "site")
    with pytest.raises(BadInput, match="at least one token"):
        Moments.over([])
    infinite = activations()
    infinite[0, 0, 0] = torch.inf
    with pytest.raises(BadInput, match="not finite"):
        standardiser.fit(Moments.of(infinite), "site")


def test_folded_weights_read_and_write_activations_as_they_are() -> None:
    values, generator = activations() / 100, torch.Generator().manual_seed(1)
    weight, bias = torch.randn(6, 4, generator=generator), torch.randn(6, generator=generator)
    decoder, target_bias = torch.randn(6, 8, generator=generator), torch.randn(2, 4, generator=generator)
    standardiser = Standardiser(2, 4)
    standardiser.fit(Moments.of(values), "site")
    features = torch.relu(standardiser(values)[:, 0] @ weight.T + bias)
    written = standardiser.undo((features @ decoder).view(-1, 2, 4) + target_bias)
    plain, plain_bias = folded_encoder(weight, bias, standardiser.mean[0], standardiser.scale[0])
    again = torch.relu(values[:, 0] @ plain.T + plain_bias)
    torch.testing.assert_close(again, features, rtol=1e-4, atol=1e-4)
    rewritten = (again @ folded_decoder(decoder, standardiser.scale)).view(-1, 2, 4)
    rewritten = rewritten + folded_bias(target_bias, standardiser.mean, standardiser.scale)
    torch.testing.assert_close(rewritten, written, rtol=1e-5, atol=1e-4)
