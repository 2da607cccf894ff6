"""All cores on a quiet machine, one thread beside other work, and back again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from lens_runs import trainer_of

from consistency_lens.base.watching.threads import ChooseThreads, ThreadChoice

QUIET, BUSY = {2: 1.0, 1: 1.4}, {2: 15.0, 1: 2.0}


def run(choice: ThreadChoice, seconds: Callable[[int], dict[int, float]], steps: int) -> tuple[list[int], float]:
    """The threads of each step, and what all steps took."""
    threads, total = [], 0.0
    for step in range(steps):
        threads.append(choice.next)
        took = seconds(step)[choice.next]
        choice.took(took)
        total += took
    return threads, total


def test_a_quiet_machine_keeps_all_its_cores() -> None:
    threads, total = run(ThreadChoice(2), lambda step: QUIET, 1000)
    assert threads[:6] == [2, 2, 1, 1, 2, 2]
    assert total < 1.01 * 1000 * QUIET[2]


def test_beside_other_work_there_is_one_thread() -> None:
    threads, total = run(ThreadChoice(2), lambda step: BUSY, 1000)
    assert threads[:5] == [2, 2, 1, 1, 1]
    assert total < 1.1 * 1000 * BUSY[1]


def test_work_that_begins_is_noticed_within_some_steps_and_its_end_later() -> None:
    threads, _ = run(ThreadChoice(2), lambda step: BUSY if 300 <= step < 700 else QUIET, 1500)
    assert set(threads[320:340]) == {1}
    assert threads[1200:1400].count(1) <= 8  # it is looked at again, now and then


def test_steps_that_become_longer_for_everybody_change_nothing() -> None:
    """Longer texts, say: compared again, and all cores stay."""
    threads, _ = run(ThreadChoice(2), lambda step: {2: 3.0, 1: 4.2} if step >= 200 else QUIET, 600)
    assert threads[-1] == 2 and threads.count(1) < 20


def test_a_training_compares_in_each_stage_and_logs_what_it_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    trainer = trainer_of(tmp_path / "choosing", warm_steps=1, max_steps=9)
    trainer.add_callback(ChooseThreads(2, trainer.note, clock(QUIET, used)))
    trainer.train()
    # The step that ends the stage before, the first of the stage, two comparisons, and the choice.
    assert used[::2] == [2, 2, 2, 1, 1, 2, 2, 2, 2] and set(used[1::2]) == {2}
    logged = [entry["cpu_threads"] for entry in trainer.state.log_history if "loss" in entry]
    assert logged == used[::2]


def clock(seconds: dict[int, float], used: list[int]) -> Callable[[], float]:
    """Between two readings passes what a step takes with the threads set last."""

    def readings() -> Iterator[float]:
        now = 0.0
        while True:
            yield now
            now += seconds[used[-1]]

    return readings().__next__


def test_a_resumed_training_begins_with_the_number_that_was_logged_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", used.append)

    def trained(max_steps: int, resume: bool) -> None:
        trainer = trainer_of(tmp_path, warm_steps=0, max_steps=max_steps, save_strategy="steps", save_steps=1)
        trainer.add_callback(ChooseThreads(2, trainer.note, clock(BUSY, used)))
        trainer.train(resume_from_checkpoint=resume or None)

    trained(4, False)
    assert used[::2] == [2, 2, 1, 1]
    used.clear()
    trained(6, True)
    assert used[::2] == [1, 1]
