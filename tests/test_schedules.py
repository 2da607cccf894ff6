"""Schedules: what they are worth at each step, and that they are written as they are read."""

import math
from itertools import pairwise

import pytest

from consistency_lens.errors import BadInput
from consistency_lens.schedules import KINDS, Schedule

WRITTEN = {
    "0.5": "0.5",
    "1": "1",
    "constant(2.0)": "2",
    "constant(2, warmup=10)": "constant(2, warmup=10)",
    "linear(1.0, 0.1, 1000)": "linear(1, 0.1, 1000)",
    "cosine(1e-3, 0, 50, warmup=5)": "cosine(0.001, 0, 50, warmup=5)",
    "exponential(1, .01, 100)": "exponential(1, 0.01, 100)",
}


@pytest.mark.parametrize(("text", "written"), WRITTEN.items())
def test_written_as_read(text: str, written: str) -> None:
    schedule = Schedule.parse(text)
    assert str(schedule) == written
    assert Schedule.parse(written) == schedule


def test_a_number_is_always_itself() -> None:
    assert {Schedule.parse(0.3)(step) for step in range(0, 10_000, 997)} == {0.3}


@pytest.mark.parametrize("kind", KINDS[1:])
def test_from_start_to_end(kind: str) -> None:
    schedule = Schedule.parse(f"{kind}(2.0, 0.5, 100)")
    values = [schedule(step) for step in range(130)]
    assert values[0] == pytest.approx(2.0)
    assert values[100:] == pytest.approx([0.5] * 30)
    assert all(later < earlier for earlier, later in pairwise(values[:101]))


def test_shapes_between_the_ends() -> None:
    linear, cosine, exponential = (Schedule.parse(f"{kind}(1.0, 0.01, 100)") for kind in KINDS[1:])
    assert linear(25) == pytest.approx(1 - 0.99 * 0.25)
    assert cosine(25) == pytest.approx(0.01 + 0.99 * (1 + math.cos(math.pi / 4)) / 2)
    assert exponential(25) == pytest.approx(0.01**0.25)


def test_warm_up_comes_first() -> None:
    schedule = Schedule.parse("linear(1.0, 0.0, 10, warmup=4)")
    assert [schedule(step) for step in range(5)] == pytest.approx([0, 0.25, 0.5, 0.75, 1.0])
    assert schedule(9) == pytest.approx(0.5)
    assert schedule(14) == 0


def test_off_means_always_zero() -> None:
    assert Schedule.parse("0").is_off
    assert not Schedule.parse("linear(0, 1, 10)").is_off


@pytest.mark.parametrize(
    "text",
    [
        "",
        "liner(1, 0, 5)",
        "linear(1, 0)",
        "constant(1, 2)",
        "linear(1, 0, 0)",
        "linear(1, 0, 2.5)",
        "exponential(1, 0, 5)",
    ],
)
def test_nonsense_is_refused_by_name(text: str) -> None:
    with pytest.raises(BadInput, match="kl_weight") as error:
        Schedule.parse(text, field="kl_weight")
    assert repr(text) in str(error.value)
