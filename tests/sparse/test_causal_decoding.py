"""Causal decoders, dense and sparse, against four slow ways to write the same sums: values and gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from consistency_lens.sparse.coding.decoding import causal_decode, product, tied_decode, untied
from consistency_lens.sparse.coding.encoding import activate, break_even, is_sparse, pre_activations
from consistency_lens.sparse.coding.entries import Entries, sum_by_feature, sum_by_token
from consistency_lens.sparse.coding.slow_decoding import (
    as_dense,
    as_pairs,
    as_targets,
    dense_masked,
    packed_pairs,
    target_major,
)
from consistency_lens.sparse.configuration import CrosslayerTranscoderConfig
from consistency_lens.sparse.source import SourceLayer

SIZE = 5


def case(layers: int, features: int, tokens: int, share: float, seed: int = 0) -> tuple[Tensor, list[Tensor]]:
    """Features `[N, L, F]`, this share of them active, and decoders of all sources."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(tokens, layers, features, generator=generator)
    values = values * (torch.rand(values.shape, generator=generator) < share)
    decoders = [torch.randn(features, (layers - i) * SIZE, generator=generator) for i in range(layers)]
    return values.requires_grad_(), [weight.requires_grad_() for weight in decoders]


def by_loops(values: Tensor, decoders: list[Tensor]) -> Tensor:
    """The definition: y_l is the sum over i <= l of W_{i,l}^T f_i."""
    count = values.shape[1]
    targets = [torch.zeros(len(values), SIZE) for _ in range(count)]
    for i in range(count):
        for j in range(i, count):
            targets[j] = targets[j] + values[:, i] @ decoders[i][:, (j - i) * SIZE : (j - i + 1) * SIZE]
    return torch.stack(targets, 1)


def sparse(values: Tensor) -> list[Entries]:
    return [Entries.where(own.detach() != 0, own) for own in values.unbind(1)]


def ways(values: Tensor, decoders: list[Tensor]) -> dict[str, Tensor]:
    return {
        "dense": causal_decode(values.unbind(1), decoders, SIZE, limit=0.0)[0],
        "few active": causal_decode(values.unbind(1), decoders, SIZE, limit=1.0)[0],
        "entries": causal_decode(sparse(values), decoders, SIZE)[0],
        "mixed": causal_decode([*sparse(values)[:1], *values.unbind(1)[1:]], decoders, SIZE, limit=0.0)[0],
        "dense mask": dense_masked(values, as_dense(decoders, SIZE)),
        "packed pairs": packed_pairs(values, as_pairs(decoders, SIZE)),
        "target major": target_major(values, as_targets(decoders, SIZE)),
    }


def gradients(result: Tensor, values: Tensor, decoders: list[Tensor]) -> list[Tensor]:
    weight = torch.randn(result.shape, generator=torch.Generator().manual_seed(7))
    return list(torch.autograd.grad((result * weight).sum(), [values, *decoders], retain_graph=True))


@settings(max_examples=25, deadline=None)
@given(
    layers=st.integers(1, 4),
    features=st.integers(1, 9),
    tokens=st.integers(1, 7),
    share=st.sampled_from([0.0, 0.2, 1.0]),
    seed=st.integers(0, 3),
)
def test_all_ways_agree_in_values_and_gradients(
    layers: int, features: int, tokens: int, share: float, seed: int
) -> None:
    values, decoders = case(layers, features, tokens, share, seed)
    expected = by_loops(values, decoders)
    slopes = gradients(expected, values, decoders)
    for name, found in ways(values, decoders).items():
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")
        own = gradients(found, values, decoders)
        if name in ("entries", "mixed"):  # what is not an entry has no gradient
            kept = values.detach() != 0
            kept[:, 1:] |= name == "mixed"
            own[0], wanted = own[0] * kept, [slopes[0] * kept, *slopes[1:]]
        else:
            wanted = slopes
        torch.testing.assert_close(own, wanted, rtol=1e-5, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")


def test_nothing_below_the_diagonal_is_written() -> None:
    values, decoders = case(4, 6, 3, 1.0)
    changed = values.detach().clone()
    changed[:, 2] += 1.0
    before, after = (causal_decode(v.unbind(1), decoders, SIZE)[0] for v in (values, changed))
    assert torch.equal(before[:, :2], after[:, :2])
    assert not torch.isclose(before[:, 2:], after[:, 2:]).all(-1).any()
    assert sum(weight.numel() for weight in decoders) == 6 * SIZE * (4 + 3 + 2 + 1)


def test_tied_decoders_are_causal_ones_that_repeat() -> None:
    values, _ = case(3, 6, 4, 0.4)
    decoders = [torch.randn(6, SIZE).requires_grad_() for _ in range(3)]
    expected, lengths = causal_decode(values.unbind(1), untied(decoders), SIZE)
    slopes = gradients(expected, values, decoders)
    for active in (values.unbind(1), sparse(values), [*values.unbind(1)[:1], *sparse(values)[1:]]):
        found, own = tied_decode(active, decoders, limit=0.0)
        torch.testing.assert_close(own, lengths)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(gradients(found, values, decoders)[1:], slopes[1:], rtol=1e-5, atol=1e-5)


def test_per_layer_decoders_write_to_their_own_target() -> None:
    values, _ = case(3, 6, 4, 0.4)
    decoders = [torch.randn(6, SIZE) for _ in range(3)]
    found, _ = causal_decode(values.unbind(1), decoders, SIZE)
    expected = [own @ weight for own, weight in zip(values.unbind(1), decoders, strict=True)]
    torch.testing.assert_close(found, torch.stack(expected, 1))


@pytest.mark.parametrize("nonlinearity", ["jumprelu", "relu"])
def test_a_sparse_layer_has_the_gradients_of_a_dense_one(nonlinearity: str) -> None:
    """Of x, encoder, bias, thresholds and decoder, all the way through one layer."""
    generator = torch.Generator().manual_seed(1)
    x, weight = torch.randn(7, SIZE, generator=generator), torch.randn(11, SIZE, generator=generator)
    bias, decoder = torch.randn(11, generator=generator), torch.randn(11, SIZE, generator=generator)
    threshold = 0.2 + torch.rand(11, generator=generator) if nonlinearity == "jumprelu" else None
    leaves = [t.requires_grad_() for t in (x, weight, bias, decoder, threshold) if t is not None]

    def through(limit: float) -> tuple[Tensor, list[Tensor]]:
        pre = pre_activations(x, weight, bias)
        mask = None if threshold is not None else pre > 0
        active = activate(x, weight, bias, pre, mask, threshold, 0.7, limit)
        assert isinstance(active, Entries) == (limit == 1.0)
        found, _ = product(active, decoder, limit)
        return found, list(torch.autograd.grad((found**3).sum(), leaves))

    (dense, slopes), (few, own) = through(0.0), through(1.0)
    torch.testing.assert_close(few, dense, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(own, slopes, rtol=1e-5, atol=1e-4)
    plain = torch.relu(x @ weight.T + bias) if threshold is None else None
    if plain is not None:
        torch.testing.assert_close(dense, plain @ decoder)
        torch.testing.assert_close(slopes, list(torch.autograd.grad(((plain @ decoder) ** 3).sum(), leaves)))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_lengths_and_products_share_one_gradient(share: float) -> None:
    """Of a loss that needs either or both, against plain autograd; a row of zeros has no direction."""
    values, decoders = case(2, 6, 8, share)
    with torch.no_grad():
        decoders[0][2] = 0.0
    weight = torch.rand(6, generator=torch.Generator().manual_seed(3))
    for written, length in ((1.0, 1.0), (1.0, 0.0), (0.0, 1.0)):

        def loss(total: Tensor, lengths: list[Tensor], w: float = written, v: float = length) -> Tensor:
            terms = [w * total.square().sum()] if w else []
            return torch.stack([*terms, *([(v * own * weight).sum() for own in lengths] if v else [])]).sum()

        plain = [decoder.norm(dim=1) for decoder in decoders]
        expected = torch.autograd.grad(loss(by_loops(values, decoders), plain), decoders)
        for active, limit in ((values.unbind(1), 0.0), (values.unbind(1), 1.0), (sparse(values), 1.0)):
            found = torch.autograd.grad(loss(*causal_decode(active, decoders, SIZE, limit)), decoders)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_density_chooses() -> None:
    mask = torch.zeros(10, 10, dtype=torch.bool)
    mask[0, :5] = True
    assert is_sparse(mask, 0.05) and not is_sparse(mask, 0.04) and not is_sparse(torch.zeros_like(mask), 0.0)
    # Decoders that no cache holds are read from memory, row by row.
    small, large = torch.zeros(100, 10), torch.zeros(1).expand(1 << 13, 1 << 10)
    assert 0 < break_even(large) < break_even(small) < 1
    x, weight, bias = torch.randn(50, 4), torch.randn(40, 4), torch.zeros(40)
    for share, kind in ((0.9, Tensor), (1.1, Entries)):
        source = SourceLayer(CrosslayerTranscoderConfig(hidden_size=4, features=40, nonlinearity="topk", k=5), 0)
        with torch.no_grad():
            source.W_enc.copy_(weight)
            source.b_enc.copy_(bias)
        count = int(source.mask(pre_activations(x, weight, bias)).sum())  # type: ignore[union-attr]
        assert isinstance(source(x, limit=share * count / 2000), kind)
        assert isinstance(source(x), Entries) == (count / 2000 <= break_even(weight))


def test_sums_over_entries_and_codes_of_chosen_tokens() -> None:
    values, decoders = case(1, 6, 8, 0.4)
    dense = values.detach()[:, 0]
    entries = Entries.where(dense != 0, dense)
    torch.testing.assert_close(entries.dense(), dense)
    torch.testing.assert_close(sum_by_token(entries, decoders[0]), dense @ decoders[0])
    other = torch.randn(8, SIZE)
    torch.testing.assert_close(sum_by_feature(entries, other), dense.T @ other)
    assert torch.equal(entries.counts(), (dense > 0).sum(0))
    rows = torch.tensor([3, 0, 3, 7])
    torch.testing.assert_close(entries.take(rows).dense(), dense[rows])
