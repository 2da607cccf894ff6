"""A training that stopped early, and is resumed, does not train on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lens_runs import arguments, tiny_lens, tiny_rows, trainer_of
from tiny import tiny_lm
from transformers import EarlyStoppingCallback, TrainerControl, TrainerState

from consistency_lens.base.watching.stopping import PatienceKept
from consistency_lens.errors import BadInput
from consistency_lens.text.arguments import ConsistencyLensArguments
from consistency_lens.text.trainer import ConsistencyLensTrainer

STILL: dict[str, Any] = {
    **{"learning_rate": 0.0, "max_steps": 9, "warm_steps": 0, "warm_start": "none"},
    **{"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1},
    **{"load_best_model_at_end": True, "metric_for_best_model": "eval_kl_recovered", "greater_is_better": True},
}


def stopping(folder: Path, patience: int = 2) -> ConsistencyLensTrainer:
    trainer = trainer_of(folder, **STILL)
    trainer.add_callback(EarlyStoppingCallback(patience))
    return trainer


def steps(trainer: ConsistencyLensTrainer) -> list[int]:
    return [entry["step"] for entry in trainer.state.log_history if "loss" in entry]


def test_it_stops_where_it_stopped(tmp_path: Path) -> None:
    once = stopping(tmp_path)
    once.train()
    assert steps(once) == [1, 2, 3], "nothing gets better"
    for step in (2, 3):
        again = stopping(tmp_path)
        again.train(str(tmp_path / f"checkpoint-{step}"))
        assert steps(again) == [1, 2, 3] and again.state.global_step == 3
        assert again.state.best_model_checkpoint == once.state.best_model_checkpoint
    more = stopping(tmp_path, patience=3)
    more.train(str(tmp_path / "checkpoint-3"))
    assert steps(more) == [1, 2, 3, 4], "with more patience it goes on"


def test_of_several_sets_the_first_decides_when_to_stop(tmp_path: Path) -> None:
    held_out = tiny_rows().splits["validation"]
    sets = {"near": held_out, "far": tiny_rows().splits["test"]}

    def one() -> ConsistencyLensTrainer:
        frozen = tiny_lm()
        args = arguments(tmp_path, **STILL)
        trainer = ConsistencyLensTrainer(tiny_lens(frozen), args, tiny_rows(), eval_dataset=sets, frozen=frozen)
        trainer.add_callback(EarlyStoppingCallback(2))
        return trainer

    first, again = one(), one()
    first.train()
    assert steps(first) == [1, 2, 3]
    again.train(str(tmp_path / "checkpoint-2"))
    assert steps(again) == [1, 2, 3]


def test_a_metric_that_no_evaluation_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"metric_for_best_model='loss': no evaluation has a loss"):
        trainer_of(tmp_path, **STILL | {"metric_for_best_model": "loss"})
    with pytest.raises(BadInput, match=r"metric_for_best_model='eval_bleu'.*eval_kl_recovered"):
        trainer_of(tmp_path, **STILL | {"metric_for_best_model": "eval_bleu"}).train()


class Handler:
    def __init__(self, callback: EarlyStoppingCallback) -> None:
        self.callbacks = [callback]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from([0.0, 0.5, 0.52, 1.0, math.nan, -math.inf]), max_size=12),
    st.booleans(),
    st.sampled_from([0.0, 0.05, None]),
    st.integers(1, 4),
)
def test_the_count_is_the_one_that_the_library_had(
    values: list[float], greater: bool, threshold: float | None, patience: int
) -> None:
    args = ConsistencyLensArguments(
        output_dir="x", use_cpu=True, report_to="none", metric_for_best_model="kl", greater_is_better=greater
    )
    theirs, ours = (EarlyStoppingCallback(patience, threshold or 0.0) for _ in range(2))
    state, control = TrainerState(), TrainerControl()
    for value in values:
        theirs.on_evaluate(args, state, control, {"eval_kl": value})
        if state.best_metric is None:
            state.best_metric = -math.inf if greater else math.inf
        if value > state.best_metric if greater else value < state.best_metric:
            state.best_metric = value
        state.log_history.append({"eval_kl": value, "step": len(state.log_history)})
    begun = TrainerControl()
    PatienceKept(Handler(ours)).on_train_begin(args, state, begun)
    assert ours.early_stopping_patience_counter == theirs.early_stopping_patience_counter
    assert begun.should_training_stop == (theirs.early_stopping_patience_counter >= patience)


@pytest.mark.parametrize("patience", [1, 5])
def test_a_new_training_begins_to_wait_anew(patience: int) -> None:
    callback = EarlyStoppingCallback(patience)
    callback.early_stopping_patience_counter = patience
    args = ConsistencyLensArguments(output_dir="x", use_cpu=True, report_to="none", metric_for_best_model="kl")
    control = TrainerControl()
    PatienceKept(Handler(callback)).on_train_begin(args, TrainerState(), control)
    assert callback.early_stopping_patience_counter == 0 and not control.should_training_stop
