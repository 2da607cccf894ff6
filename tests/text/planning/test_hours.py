"""The arithmetic of time: operations are counted as they are made, and more work takes longer."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from lens_runs import tiny_lens
from tiny import TINY_CONFIGS, tiny_lm
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig

from consistency_lens.text.parts.generation import Noise
from consistency_lens.text.planning import Card, Sizes, Work, hours_of, operations_of
from consistency_lens.text.planning.memory import trained_of
from consistency_lens.text.planning.sizing import sizes_of

CARD = Card(memory=1e9, speed=1e12, bandwidth=1e11, link=1e10)
WORK = Work(site_depth=2, trainable="full", dtype="float32", autocast=False, rows=3, rollouts=2, length=5, prompt=5)


@pytest.fixture(scope="module")
def sizes() -> Sizes:
    kind, settings = TINY_CONFIGS["llama"]
    return sizes_of(AutoConfig.for_model(kind, **settings), "float32", rank=4)


def test_operations_of_both_parts_are_those_that_are_counted(sizes: Sizes) -> None:
    """Against torch's own count of a real lens, forward and backward. Elementwise work is in neither."""
    lens = tiny_lens(tiny_lm())
    said = operations_of(sizes, WORK)
    activations = torch.randn(WORK.texts, 32)
    words = lens.decoder.write(activations, Noise(0))
    lens.requires_grad_(True)
    with FlopCounterMode(display=False) as counted:
        lens.decoder.score(activations, words).float().logsumexp(-1).sum().backward()
    assert said["teacher-forced"] == pytest.approx(counted.get_total_flops(), rel=0.1)
    with FlopCounterMode(display=False) as counted:
        lens.encoder(words).square().sum().backward()
    assert said["encoder"] == pytest.approx(counted.get_total_flops(), rel=0.1)


@pytest.mark.parametrize(
    "changes",
    [
        *({name: 2 * getattr(WORK, name)} for name in ("rows", "rollouts", "length", "context", "horizon")),
        *({name: True} for name in ("language", "grounded")),
    ],
    ids=str,
)
def test_more_work_takes_longer(sizes: Sizes, changes: dict[str, object]) -> None:
    before, after = (hours_of(sizes, work, CARD, 100, 40) for work in (WORK, replace(WORK, **changes)))
    assert after.total > before.total


@pytest.mark.parametrize("rows", [2, 64])
def test_a_rollout_reads_the_weights_for_every_token(sizes: Sizes, rows: int) -> None:
    """For few texts or many, on top of what it computes; a long pass does not wait."""
    at_once, slow = (
        hours_of(sizes, replace(WORK, rows=rows), replace(CARD, bandwidth=bandwidth), 100, 40).seconds
        for bandwidth in (math.inf, 1e3)
    )
    assert slow["rollout"] - at_once["rollout"] == pytest.approx(4.0 * sizes.weights * WORK.length / 1e3)
    assert slow["prefix"] == at_once["prefix"] > 0 < at_once["rollout"]


def test_hours_are_the_sum_of_the_stages(sizes: Sizes) -> None:
    found = hours_of(sizes, WORK, CARD, steps=100, warm_steps=40)
    assert found.total == pytest.approx((40 * found.warm + 60 * sum(found.seconds.values())) / 3600)
    assert hours_of(sizes, WORK, replace(CARD, speed=2e12, bandwidth=2e11), 100, 40).total == found.total / 2


def test_spread_weights_are_sent_for_every_pass(sizes: Sizes) -> None:
    whole, spread = (
        hours_of(sizes, replace(WORK, processes=2, shards=shards), CARD, 100, 40).seconds["between cards"]
        for shards in (1, 2)
    )
    assert spread > whole + WORK.length * 4.0 * sizes.weights / 2 / CARD.link


def test_copies_within_machines_send_gradients_alone_over_the_network(sizes: Sizes) -> None:
    """Weights go around within a machine; of the gradients, each card sends on the part that is its own."""
    card = replace(CARD, machine=4, network=CARD.link / 100)
    within, over_all, alone = (
        hours_of(sizes, replace(WORK, processes=processes, shards=shards), card, 100, 40).seconds["between cards"]
        for processes, shards in ((8, 4), (8, 8), (4, 4))
    )
    gradients = 4.0 * sum(trained_of(sizes, WORK).values())
    assert within - alone == pytest.approx(gradients / 4 / card.network)  # two copies: there, and back
    assert over_all == pytest.approx(alone * (7 / 8) / (3 / 4) * 100)
    whole = hours_of(sizes, replace(WORK, processes=8), card, 100, 40).seconds["between cards"]
    assert whole == pytest.approx(2 * 7 / 8 * gradients / card.network)
