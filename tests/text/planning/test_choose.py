"""What is recommended fits, leaves alone what is settled, and says what would help where nothing fits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consistency_lens.errors import BadInput
from consistency_lens.text.planning import Card, Sizes, Work, choose, memory_of

BIG = Sizes(
    weights=8_030_000_000, in_blocks=6_980_000_000, linear=6_979_000_000, table=525_000_000, head=525_000_000,
    depth=32, width=4096, words=128_256, keys=2048, heads=8192, sides=81_920,
    kept={"full": 393_000.0, "lora": 324_000.0, "judge": 168_000.0},
)  # fmt: skip
SMALL = replace(BIG, weights=100_000_000, in_blocks=80_000_000, linear=79_000_000, table=20_000_000, head=0)
WORK = Work(site_depth=22)


def card(memory: float) -> Card:
    return Card(memory=memory, speed=125e12, bandwidth=2e12, link=3e11)


def chosen(sizes: Sizes, memory: float, work: Work = WORK, **given: object) -> list[Work]:
    options, best = choose(sizes, work, card(memory), 12_000, 4_000, 64, given)
    assert all(option.memory.peak <= memory for option in options) and best is options[0]
    assert all(o.work.rows * o.work.accumulation * o.work.processes == 64 for o in options)
    return [option.work for option in options]


def test_the_subject_is_packed_only_where_it_has_to_be() -> None:
    assert chosen(BIG, 72e9)[0].quantization == "none"
    assert chosen(BIG, 16e9)[0].quantization == "8bit"
    assert chosen(BIG, 10e9)[0].quantization == "4bit"
    assert {work.trainable for work in chosen(BIG, 72e9)} == {"lora"}  # two clones of it need a rack
    assert chosen(SMALL, 72e9)[0].trainable == "full"


def test_what_is_settled_stays() -> None:
    works = chosen(BIG, 72e9, quantization="4bit", rows=4, checkpointing=True)
    assert {(work.quantization, work.rows, work.checkpointing) for work in works} == {("4bit", 4, True)}


def test_more_memory_is_never_slower() -> None:
    hours = [choose(BIG, WORK, card(gb * 1e9), 12_000, 4_000, 64, {"quantization": "none"})[1].hours.total
             for gb in (24, 40, 72, 130)]  # fmt: skip
    assert hours == sorted(hours, reverse=True) and hours[0] > hours[-1]


def test_weights_are_spread_where_no_card_holds_them() -> None:
    eight = replace(WORK, processes=8)
    assert not chosen(BIG, 72e9, eight)[0].spread
    spread = chosen(BIG, 15e9, eight, quantization="none")
    assert [work.shards for work in spread] == [8] and spread[0].trainable == "lora"


def test_weights_are_spread_within_machines_before_over_all() -> None:
    """Sixteen of eight to a machine; where eight still hold too much, all share."""
    sixteen = replace(WORK, processes=16)
    assert [work.shards for work in chosen(BIG, 15e9, sixteen, quantization="none")] == [8, 16]
    least = min(
        memory_of(BIG, replace(sixteen, shards=8, rows=rows, checkpointing=True)).peak for rows in (2, 4)
    )  # fmt: skip
    assert [work.shards for work in chosen(BIG, 0.99 * least, sixteen, quantization="none")] == [16]
    assert {work.shards for work in chosen(BIG, 15e9, replace(WORK, processes=4), quantization="none")} == {4}


def test_the_card_is_named_as_it_was_given() -> None:
    eighth = Card(memory=7.2e9, speed=125e12, bandwidth=2e12, link=3e11, share=0.9)
    with pytest.raises(BadInput, match=r"gpu_memory=8\.0: .* of 7\.2 that may be used"):
        choose(BIG, WORK, eighth, 12_000, 4_000, 64, {"quantization": "none"})
    with pytest.raises(BadInput) as caught:
        choose(BIG, WORK, card(1e9), 12_000, 4_000, 64, {"quantization": "4bit"})
    assert "--gpus" not in str(caught.value)  # packed weights are never spread


def test_packed_weights_cannot_be_trained() -> None:
    with pytest.raises(BadInput, match=r"trainable='full': the model is packed, quantization=8bit\. Use"):
        choose(BIG, WORK, card(72e9), 12_000, 4_000, 64, {"trainable": "full", "quantization": "8bit"})


def test_where_nothing_fits_it_says_what_helps() -> None:
    with pytest.raises(BadInput, match=r"gpu_memory=40\.0.*moments 107\.1 GB.*--trainable lora.*--gpus") as caught:
        choose(BIG, WORK, card(40e9), 12_000, 4_000, 64, {"trainable": "full", "quantization": "none"})
    assert "--quantization 4bit" in str(caught.value)
    with pytest.raises(BadInput) as caught:
        choose(BIG, WORK, card(2e9), 12_000, 4_000, 64, {})
    assert "--trainable lora" not in str(caught.value) and "--code_length" in str(caught.value)
