"""The straight-through look-up against the one-hot product it stands for, and rollouts against what they promise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from consistency_lens.text.parts.generation import (
    Noise,
    Words,
    leave_one_out,
    roll_out,
    straight_through_embed,
    straight_through_log_probability,
)

ROWS, LENGTH, VOCABULARY, HIDDEN = 5, 4, 23, 6


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def naive_choice(logits: Tensor, noise: Noise) -> Tensor:
    """`y` of the equation, written out: `[B, T, V]`."""
    gumbel = [noise.at(t, logits[:, t]) + torch.zeros_like(logits[:, t]) for t in range(logits.shape[1])]
    perturbed = logits + torch.stack(gumbel, dim=1)
    soft = (perturbed / noise.temperature).softmax(-1)
    hard = torch.nn.functional.one_hot(perturbed.argmax(-1), logits.shape[-1]).to(soft)
    return hard + soft - soft.detach()


def chosen(logits: Tensor, noise: Noise) -> Tensor:
    return torch.stack([noise.choose(t, logits[:, t]) for t in range(logits.shape[1])], dim=1)


@pytest.mark.parametrize("noise", [Noise(3), Noise(3, 0.3), Noise(4, 2.0), Noise(None, 0.7)], ids=str)
def test_look_up_equals_the_one_hot_product(noise: Noise) -> None:
    logits = [random(ROWS, LENGTH, VOCABULARY).mul_(2).requires_grad_() for _ in range(2)]
    tables = [random(VOCABULARY, HIDDEN, seed=1).requires_grad_() for _ in range(2)]
    fast = straight_through_embed(logits[0], chosen(logits[0], noise), tables[0], noise)
    slow = naive_choice(logits[1], noise) @ tables[1]
    torch.testing.assert_close(fast, slow)
    upstream = random(ROWS, LENGTH, HIDDEN, seed=2)
    (fast * upstream).sum().backward()
    (slow * upstream).sum().backward()
    assert logits[1].grad.abs().max() > 1e-3
    torch.testing.assert_close(logits[0].grad, logits[1].grad)
    torch.testing.assert_close(tables[0].grad, tables[1].grad)


@pytest.mark.parametrize("noise", [Noise(3), Noise(5, 0.3), Noise(None, 0.7)], ids=str)
def test_log_probability_equals_the_one_hot_sum(noise: Noise) -> None:
    logits = [random(ROWS, LENGTH, VOCABULARY).mul_(2).requires_grad_() for _ in range(2)]
    said = [random(ROWS, LENGTH, VOCABULARY, seed=1).mul_(2).requires_grad_() for _ in range(2)]
    fast = straight_through_log_probability(logits[0], chosen(logits[0], noise), said[0], noise)
    slow = (naive_choice(logits[1], noise) * said[1].log_softmax(-1)).sum(-1)
    torch.testing.assert_close(fast, slow)
    upstream = random(ROWS, LENGTH, seed=2)
    (fast * upstream).sum().backward()
    (slow * upstream).sum().backward()
    torch.testing.assert_close(logits[0].grad, logits[1].grad)
    torch.testing.assert_close(said[0].grad, said[1].grad)


def test_look_up_keeps_nothing_of_the_size_of_the_vocabulary() -> None:
    logits = random(ROWS, LENGTH, VOCABULARY).requires_grad_()
    table = random(VOCABULARY, HIDDEN)
    known = {logits.data_ptr(), table.data_ptr()}
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        straight_through_embed(logits, chosen(logits.detach(), Noise(0)), table, Noise(0))
    assert {tensor.data_ptr() for tensor in kept} >= known
    assert all(tensor.numel() <= ROWS * LENGTH for tensor in kept if tensor.data_ptr() not in known)


def test_a_frozen_table_gets_no_gradient() -> None:
    logits, table = random(ROWS, LENGTH, VOCABULARY).requires_grad_(), random(VOCABULARY, HIDDEN)
    straight_through_embed(logits, chosen(logits.detach(), Noise(0)), table, Noise(0)).sum().backward()
    assert logits.grad is not None and table.grad is None


def test_noise_is_a_function_of_seed_and_step() -> None:
    like = torch.zeros(3, 50)
    assert torch.equal(Noise(7).at(2, like), Noise(7).at(2, like))
    assert not torch.equal(Noise(7).at(2, like), Noise(7).at(3, like))
    assert not torch.equal(Noise(7).at(2, like), Noise(8).at(2, like))
    assert Noise(7).at(0, torch.zeros(2000, 500)).isfinite().all()


def test_choices_are_samples_of_the_softmax() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0]).expand(200_000, 4)
    counts = torch.bincount(Noise(1).choose(0, logits), minlength=4) / len(logits)
    torch.testing.assert_close(counts, logits[0].softmax(-1), atol=4e-3, rtol=0)


def test_roll_out_feeds_each_choice_to_the_next_step() -> None:
    transition = random(VOCABULARY, VOCABULARY).mul_(3)
    seen: list[Tensor | None] = []

    def step(ids: Tensor | None) -> Tensor:
        seen.append(ids)
        return transition[torch.zeros(ROWS, dtype=torch.long) if ids is None else ids]

    ids = roll_out(step, LENGTH, Noise(None))
    by_hand = [transition[0].argmax()]
    for _ in range(LENGTH - 1):
        by_hand.append(transition[by_hand[-1]].argmax())
    assert ids.tolist() == [[int(i) for i in by_hand]] * ROWS
    assert seen[0] is None and all(torch.equal(fed, ids[:, t]) for t, fed in enumerate(seen[1:]))


def test_a_text_ends_before_its_first_stop() -> None:
    stop, pad = 9, 0
    ids = torch.tensor([[4, 5, 9, 7], [9, 5, 6, 7], [4, 9, 9, 7], [4, 5, 6, 9]])
    words = Words.ended_by(ids, stop, pad)
    assert words.ids.tolist() == [[4, 5, 0, 0], [0, 0, 0, 0], [4, 0, 0, 0], [4, 5, 6, 0]]
    assert words.mask.tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]]
    assert words.lengths.tolist() == [2, 0, 1, 3]
    chosen, mask = words.written(stop)
    assert chosen.tolist() == [[4, 5, 9, 0], [9, 0, 0, 0], [4, 9, 0, 0], [4, 5, 6, 9]]
    assert mask.tolist() == [[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]


def test_a_text_of_full_length_has_no_end_to_choose() -> None:
    words = Words(torch.tensor([[4, 5, 6]]), torch.ones(1, 3, dtype=torch.long))
    ids, mask = words.written(9)
    assert torch.equal(ids, words.ids) and torch.equal(mask, words.mask)


def test_leave_one_out_is_each_minus_the_others() -> None:
    rewards = random(ROWS, 4)
    expected = torch.stack([rewards[:, g] - rewards[:, [h for h in range(4) if h != g]].mean(1) for g in range(4)], 1)
    torch.testing.assert_close(leave_one_out(rewards), expected)


def test_texts_are_counted_once_each() -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 3, (400, 4), generator=generator)
    words = Words(ids, torch.ones_like(ids))
    assert float(words.distinct) == pytest.approx(len({tuple(row) for row in ids.tolist()}) / 400)
    assert float(Words(ids.sort(1).values, words.mask).distinct) < float(words.distinct)
    swapped = torch.tensor([[5, 9], [9, 5], [5, 9]])
    assert float(Words(swapped, torch.ones_like(swapped)).distinct) == pytest.approx(2 / 3)
