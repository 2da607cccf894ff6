"""The arithmetic of memory: known sums, and what makes it more."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consistency_lens.text.planning import Sizes, Work, memory_of
from consistency_lens.text.planning.memory import subject_bytes, trained_of

SIZES = Sizes(
    weights=1000 + 2 * 400, in_blocks=1000, linear=800, table=400, head=400, depth=10, width=4, words=100, keys=8,
    heads=8, sides=20, kept={"full": 300.0, "lora": 200.0, "judge": 100.0},
)  # fmt: skip
WORK = Work(site_depth=6, dtype="float32", autocast=False, rows=4, rollouts=2, rank=2)


def test_what_is_trained_is_counted() -> None:
    maps = 4 * 4 + 4
    assert trained_of(SIZES, WORK) == {"decoder": 2 * 20 * 10 + maps, "encoder": 2 * 20 * 6 + maps}
    full = trained_of(SIZES, replace(WORK, trainable="full"))
    assert full == {"decoder": 1800 + maps, "encoder": 400 + 600 + maps}
    assert trained_of(SIZES, replace(WORK, trainable="projections")) == {"decoder": maps, "encoder": maps}


def test_items_that_stay() -> None:
    trained = sum(trained_of(SIZES, WORK).values())
    always = memory_of(SIZES, WORK).always
    assert always["subject"] == 4 * 1800 and always["Adam's moments"] == 8 * trained
    assert "moving average" not in always
    assert memory_of(SIZES, replace(WORK, average=True)).always["moving average"] == 4 * trained
    assert "decoder, as it was" not in memory_of(SIZES, replace(WORK, remembered=False)).always


def test_packed_weights_are_those_of_linear_layers() -> None:
    half = replace(WORK, dtype="bfloat16")
    assert subject_bytes(SIZES, half) == 2 * 1800
    assert subject_bytes(SIZES, replace(half, quantization="8bit")) == 2 * 1000 + 800
    assert 2 * 1000 + 400 < subject_bytes(SIZES, replace(half, quantization="4bit")) < 2 * 1000 + 420


def test_an_item_grows_with_what_it_is_made_of() -> None:
    few, many = memory_of(SIZES, WORK), memory_of(SIZES, replace(WORK, rows=8))
    assert few.when == many.when and few.always == many.always
    for name in ("decoder's activations", "encoder's activations", "judge's activations"):
        assert many.moment[name] == 2 * few.moment[name]
    assert memory_of(SIZES, replace(WORK, checkpointing=True)).peak < few.peak


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": 8},
        {"rollouts": 4},
        {"length": 32},
        {"context": 256},
        {"horizon": 16},
        {"rank": 64},
        {"average": True},
        {"accumulation": 4},
        {"trainable": "full"},
        {"language": True},
        {"grounded": True},
    ],
    ids=str,
)
def test_more_work_never_takes_less(changes: dict[str, object]) -> None:
    assert memory_of(SIZES, replace(WORK, **changes)).peak >= memory_of(SIZES, WORK).peak


def test_spread_weights_are_shared_out() -> None:
    alone, four = WORK, replace(WORK, processes=4, shards=4)
    assert memory_of(SIZES, four).always["subject"] == memory_of(SIZES, alone).always["subject"] / 4
    assert memory_of(SIZES, four).always["Adam's moments"] == memory_of(SIZES, alone).always["Adam's moments"] / 4
    # What is gathered for a pass is there besides: tables, and two blocks at a time.
    assert memory_of(SIZES, four).always["gathered weights"] == 4 * (800 + 2 * 100)
    two = replace(WORK, processes=4, shards=2)
    assert memory_of(SIZES, two).always["subject"] == memory_of(SIZES, alone).always["subject"] / 2
    whole = replace(WORK, processes=4)
    assert memory_of(SIZES, whole).always["subject"] == memory_of(SIZES, alone).always["subject"]
