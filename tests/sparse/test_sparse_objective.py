"""Terms of the objective against their formulas written out; the held number of active features; dead features."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transcoders import activations, small_lens

from consistency_lens.errors import BadInput
from consistency_lens.sparse.coding.entries import Entries
from consistency_lens.sparse.modeling import CrosslayerTranscoder
from consistency_lens.sparse.training.firing import Firing, forget_moments, revive
from consistency_lens.sparse.training.holding import HeldSparsity
from consistency_lens.sparse.training.objective import auxiliary_loss, mse, preactivation_loss, tanh_sparsity, terms

READ, WRITTEN = activations(seed=3), activations(seed=4)
KINDS: dict[str, dict[str, Any]] = {
    "jumprelu": {},
    "topk": {"nonlinearity": "topk", "k": 3},
    "tied": {"nonlinearity": "relu", "tied_decoder": True},
    "per layer": {"crosslayer": False},
}


def some_dead(lens: CrosslayerTranscoder) -> Tensor:
    dead = torch.zeros(4, lens.config.features, dtype=torch.bool)
    dead[0, :5] = dead[2, 3] = dead[3, 20:] = True
    return dead


def test_sparsity_is_the_formula_dense_and_sparse() -> None:
    generator = torch.Generator().manual_seed(0)
    features = [torch.rand(6, 5, generator=generator) * (torch.rand(6, 5, generator=generator) < 0.4) for _ in "ab"]
    norms = [torch.rand(5, generator=generator) for _ in "ab"]
    wanted = sum(
        math.tanh(0.1 * float(norms[i][j]) * float(features[i][n, j]))
        for i in range(2)
        for n in range(6)
        for j in range(5)
    )
    assert float(tanh_sparsity(features, norms)) == pytest.approx(wanted / 6, rel=1e-5)
    entries = [Entries.where(f != 0, f) for f in features]
    assert float(tanh_sparsity(entries, norms)) == pytest.approx(wanted / 6, rel=1e-5)


def test_the_gradient_of_sparsity_is_that_of_plain_autograd() -> None:
    slopes = []
    for limit, plain in ((0.0, True), (0.0, False), (1.0, False)):
        lens = small_lens(nonlinearity="relu")
        norms, active = lens.norms(), lens.encode(READ, limit)
        parameters = [p for part in lens.parts().values() for p in part.values()]
        if plain:
            parts = [torch.tanh(0.1 * length * f).sum() for f, length in zip(active, norms, strict=True)]
            loss = torch.stack(parts).sum() / len(READ)
        else:
            loss = tanh_sparsity(active, norms)
        slopes.append(torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True))
    for expected, dense, few in zip(*slopes, strict=True):
        torch.testing.assert_close(dense, expected, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(few, expected, rtol=1e-4, atol=1e-6)


def test_auxiliary_is_the_share_of_the_error_that_dead_features_leave() -> None:
    error = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))
    pre = [torch.tensor([[1.0, 2.0, -1.0]] * 5), torch.tensor([[-1.0, -2.0, -3.0]] * 5)]
    decoders = [torch.randn(3, 6, generator=torch.Generator().manual_seed(1)), torch.randn(3, 3)]
    explained = (
        (2.0 * decoders[0][1]).view(2, 3).expand(5, 2, 3)
    )  # one per token: the largest, the others too negative
    wanted = (error - explained).square().sum() / error.square().sum()
    torch.testing.assert_close(auxiliary_loss(pre, decoders, error, 1), wanted)
    one = error[:1]  # dead features that write the error itself leave nothing of it
    perfect = auxiliary_loss([torch.ones(1, 1)] * 2, [one.reshape(1, 6), torch.zeros(1, 3)], one, 1)
    assert float(perfect) == pytest.approx(0.0, abs=1e-6)
    none = auxiliary_loss([torch.zeros(5, 0)] * 2, [torch.zeros(0, 6), torch.zeros(0, 3)], error, 4)
    assert float(none) == pytest.approx(1.0)


def test_preactivations_of_dead_features_are_drawn_to_their_thresholds() -> None:
    pre = torch.tensor([[0.5, -1.0], [2.0, 0.0]]).requires_grad_()
    loss = preactivation_loss([pre], [torch.tensor([1.0, 1.0])], [torch.tensor([1.0, 3.0])])
    assert float(loss.detach()) == pytest.approx((0.5 + 3 * 2 + 3 * 1) / 2)
    (slope,) = torch.autograd.grad(loss, pre)
    assert slope.tolist() == [[-0.5, -1.5], [0.0, -1.5]]


@pytest.mark.parametrize("kind", KINDS)
def test_terms_of_a_lens(kind: str) -> None:
    lens = small_lens(**KINDS[kind])
    dead, output = some_dead(lens), lens(READ)
    found = terms(lens, output, READ, WRITTEN, dead)
    assert set(found) == {"mse", "sparsity", "preactivation", "auxiliary"}
    target = lens.targets.standardiser(WRITTEN)
    torch.testing.assert_close(found["mse"], (output.reconstruction - target).square().mean())
    assert set(terms(lens, output, READ, WRITTEN)) == {"mse", "sparsity"}
    # Of the encoders, only dead rows get a gradient from their terms.
    for name in ("preactivation", "auxiliary"):
        grads = torch.autograd.grad(
            found[name], [s.W_enc for s in lens.layers_in_order], retain_graph=True, materialize_grads=True
        )
        for i, grad in enumerate(grads):
            assert not bool((grad.abs().sum(1) > 0)[~dead[i]].any())
        assert any(float(grad.abs().sum()) > 0 for grad in grads)
    alive = terms(lens, output, READ, WRITTEN, torch.zeros_like(dead))
    assert float(alive["auxiliary"].detach()) == float(alive["preactivation"].detach()) == 0.0
    assert float(mse(target, target)) == 0.0


def test_the_weight_is_held_by_a_function_of_its_state() -> None:
    """A plant with a lag, in which active features fall with the weight: it settles at the target."""
    state, l0 = HeldSparsity(target=20.0, weight=1e-5, gain=0.05), 500.0
    states = []
    for _ in range(2000):
        state = state.next(l0)
        l0 = 0.9 * l0 + 0.1 * 20.0 * (2e-3 / state.weight) ** 0.7
        states.append((state, l0))
    assert state.weight == pytest.approx(2e-3, rel=0.02) and l0 == pytest.approx(20.0, rel=0.02)
    # A checkpoint in the middle leads to the very same numbers.
    resumed, l0 = states[300]
    resumed = HeldSparsity.from_dict(json.loads(json.dumps(resumed.to_dict())))
    for expected, measured in states[301:400]:
        resumed = resumed.next(l0)
        assert resumed == expected
        l0 = measured


@settings(max_examples=50, deadline=None)
@given(l0s=st.lists(st.floats(0, 1e6), max_size=30), target=st.floats(0.1, 1e4), damping=st.sampled_from([0.0, 2.0]))
def test_no_measurement_throws_the_weight_off(l0s: list[float], target: float, damping: float) -> None:
    state = HeldSparsity(target=target, weight=1e-3, damping=damping)
    for l0 in l0s:
        before, state = state, state.next(l0)
        assert abs(math.log(state.weight / before.weight)) <= state.largest_step + 1e-9
        assert state.smoothed is not None
        if state.smoothed > target * 1.001 and state.smoothed >= (before.smoothed or 0.0):
            assert state.weight >= before.weight


def test_a_target_has_to_be_above_0() -> None:
    with pytest.raises(BadInput, match="above 0"):
        HeldSparsity(target=0.0, weight=1e-3)
    with pytest.raises(BadInput) as caught:
        HeldSparsity(target=1.0, weight=0.0)
    assert caught.value.field == "sparsity_weight"


@pytest.mark.slow
def test_jumprelu_is_held_at_its_target_while_it_learns() -> None:
    lens = small_lens(features=64, bandwidth=0.5).train()
    trained = [p for part in lens.parts().values() for p in part.values()]
    optimizer = torch.optim.Adam(trained, lr=3e-3)
    state, measured = HeldSparsity(target=24.0, weight=2e-3, gain=0.05), []
    for step in range(900):
        read = activations(128, seed=step)
        written = read.cumsum(1).relu()
        output = lens(read)
        found = terms(lens, output, read, written)
        optimizer.zero_grad()
        (found["mse"] + state.weight * found["sparsity"]).backward()
        optimizer.step()
        measured.append(float(output.code.l0.sum()))
        state = state.next(measured[-1])
    assert sum(measured[-100:]) / 100 == pytest.approx(24.0, rel=0.05)


def test_counts_add_up_and_tell_who_is_dead() -> None:
    generator = torch.Generator().manual_seed(0)
    steps = [torch.randint(0, 3, (2, 5), generator=generator) * torch.tensor([1, 1, 1, 1, 0]) for _ in range(6)]
    whole, halves, resumed = Firing(2, 5), Firing(2, 5), Firing(2, 5)
    for i, counts in enumerate(steps):
        whole.see(counts, 10)
        first = counts // 2  # as two processes would count them, summed before they are added
        halves.see(first + (counts - first), 4 + 6)
        resumed.see(counts, 10)
        if i == 2:
            saved = resumed.state_dict()
            resumed = Firing(2, 5)
            resumed.load_state_dict(saved)
    for other in (halves, resumed):
        assert all(torch.equal(a, b) for a, b in zip(whole.buffers(), other.buffers(), strict=True))
    assert torch.equal(whole.count, torch.stack(steps).sum(0)) and int(whole.tokens) == 60
    assert whole.dead(60)[:, 4].all() and not whole.dead(61).any()
    last = torch.stack([(counts > 0) * (i + 1) for i, counts in enumerate(steps)]).amax(0)
    assert torch.equal(whole.idle, (6 - last) * 10)
    torch.testing.assert_close(whole.density, whole.count / 60.0, check_dtype=False)


@pytest.mark.parametrize("kind", KINDS)
def test_revived_features_are_active_again_and_no_other_is_touched(kind: str) -> None:
    read, written = activations(400, seed=3), activations(400, seed=4)
    lens, again = (small_lens(**KINDS[kind]) for _ in range(2))
    before = small_lens(**KINDS[kind])
    dead = some_dead(lens)
    for own in (lens, again, before):
        with torch.no_grad():
            for i, source in enumerate(own.layers_in_order):
                source.b_enc[dead[i]] = -1e3
    counts = lens(read).code.counts()
    assert not bool(counts[dead].any())
    optimizer = torch.optim.Adam([p for part in lens.parts().values() for p in part.values()], lr=0.0)
    torch.stack([p.square().sum() for part in lens.parts().values() for p in part.values()]).sum().backward()
    optimizer.step()
    assert revive(lens, dead, read, written, seed=5, rate=0.05).tolist() == [5, 0, 1, 4]
    forget_moments(optimizer, lens, dead)
    rates = lens(read).code.counts()[dead] / 400
    # With a TopK they compete, each for its own share.
    assert float(rates.min()) > (0.0 if kind == "topk" else 0.045) and float(rates.max()) < 0.3
    for i, (source, old) in enumerate(zip(lens.layers_in_order, before.layers_in_order, strict=True)):
        assert torch.equal(source.W_enc[~dead[i]], old.W_enc[~dead[i]])
        moments = optimizer.state[source.W_enc]["exp_avg"]
        assert not bool(moments[dead[i]].any()) and bool(moments[~dead[i]].any())
        if source.W_dec is not None and old.W_dec is not None:
            assert torch.equal(source.W_dec[~dead[i]], old.W_dec[~dead[i]])
            assert not bool((source.W_dec == old.W_dec)[dead[i]].any())
    revive(again, dead, read, written, seed=5, rate=0.05)
    assert all(torch.equal(a, b) for a, b in zip(lens.parameters(), again.parameters(), strict=True))
    revive(again, dead, read, written, seed=6, rate=0.05)
    assert not torch.equal(again.layers_in_order[0].W_enc, lens.layers_in_order[0].W_enc)
