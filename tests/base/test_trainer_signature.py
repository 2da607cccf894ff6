"""What `LensTrainer` is given has the names and the meaning that it has in transformers' `Trainer`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, IterableDataset
from lens_runs import SITE, arguments, tiny_lens, tiny_rows
from tiny import VOCABULARY, shared_lm
from transformers import EvalPrediction, TrainerCallback, set_seed

from consistency_lens import evaluate_lens
from consistency_lens.activations import Activations
from consistency_lens.activations.contexts.given import STREAM_SAMPLE
from consistency_lens.base.arguments import LensTrainingArguments
from consistency_lens.base.trainer import LensTrainer
from consistency_lens.errors import BadInput
from consistency_lens.text.modeling import ConsistencyLens
from consistency_lens.text.trainer import ConsistencyLensTrainer

STEPS = 5
SHORT = {"max_steps": 2, "warm_steps": 1, "eval_rows": 8}


def plain(split: str = "train") -> Dataset:
    """The rows of an extraction as somebody else may have made them: in memory, with the columns that are needed."""
    rows = tiny_rows().splits[split]
    return Dataset.from_list(rows.to_list(), features=rows.features)


def changed(change: Callable[[dict[str, Any]], dict[str, Any]], rows: int = 24) -> Dataset:
    """A few plain rows, each of them changed in a way."""
    return Dataset.from_list([change(dict(row)) for row in plain().select(range(rows)).to_list()])


def trainer_on(
    folder: Path, given: Any, changes: dict[str, Any] | None = None, **names: Any
) -> ConsistencyLensTrainer:
    frozen = shared_lm("llama")
    lens = {} if "model_init" in names else {"model": tiny_lens(frozen)}
    args = arguments(folder, **(SHORT | (changes or {})))
    return ConsistencyLensTrainer(**lens, args=args, train_dataset=given, frozen=frozen, **names)


def losses(trainer: LensTrainer) -> list[float]:
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_a_stream_trains_as_the_rows_in_its_order(tmp_path: Path) -> None:
    run = {"max_steps": STEPS, "train_sampling_strategy": "sequential"}
    held_out = plain("validation")
    assert len(plain()) < STREAM_SAMPLE  # so that the statistics are those of all rows
    expected = losses(trainer_on(tmp_path / "rows", plain(), run, eval_dataset=held_out))
    stream = plain().to_iterable_dataset()
    assert losses(trainer_on(tmp_path / "stream", stream, run, eval_dataset=held_out)) == expected

    def bare() -> Any:  # nobody has said what its columns are
        for row in plain().to_list():
            yield {"note": "of no use", **row}

    nameless = IterableDataset.from_generator(bare)
    assert nameless.column_names is None
    assert losses(trainer_on(tmp_path / "bare", nameless, run, eval_dataset=held_out)) == expected


def test_statistics_and_counts_are_those_of_the_extraction() -> None:
    stored, found = tiny_rows(), Activations.from_dataset(plain(), shared_lm("llama"), SITE, plain("validation"))
    for name in ("mean", "variance"):
        np.testing.assert_allclose(found.statistics[f"{SITE}.{name}"], stored.statistics[f"{SITE}.{name}"], rtol=1e-12)
        assert found.statistics[f"{SITE}.{name}"].dtype == np.float64
    assert found.dtype == stored.dtype and found.sites == stored.sites == (SITE,)
    assert found.metadata["splits"]["train"] == stored.metadata["splits"]["train"]
    assert found.metadata["rules"]["continuation_length"] == 4
    found.require_model(shared_lm("llama"))


def test_a_long_stream_is_described_by_its_beginning() -> None:
    rows = plain().to_iterable_dataset().repeat(None)
    found = Activations.from_dataset(rows, shared_lm("llama"), SITE)
    many = [row[SITE] for row in rows.take(STREAM_SAMPLE)]
    np.testing.assert_allclose(found.mean(SITE), np.mean(np.array(many, np.float64), axis=0), rtol=1e-5, atol=1e-6)
    assert "train" not in found.metadata["splits"]


def test_without_continuations_only_the_next_token_is_judged(tmp_path: Path) -> None:
    rows, held_out = (plain(split).remove_columns("continuation_ids") for split in ("train", "validation"))
    trainer = trainer_on(tmp_path, rows, eval_dataset=held_out)
    trainer.train()
    assert np.isfinite(trainer.evaluate()["eval_kl"])
    with pytest.raises(BadInput, match=r"kl_horizon=2\. Use at most 0"):
        trainer_on(tmp_path, rows, {"kl_horizon": 2}, eval_dataset=held_out)


def test_several_sets_are_evaluated_each_under_its_name(tmp_path: Path) -> None:
    sets = {"near": plain("validation"), "far": plain("test")}
    run = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    trainer = trainer_on(tmp_path, tiny_rows(), run | {"load_best_model_at_end": True}, eval_dataset=sets)
    trainer.train()
    logged = {name for entry in trainer.state.log_history for name in entry}
    assert {"eval_near_kl_recovered", "eval_far_kl_recovered"} <= logged and "eval_kl_recovered" not in logged
    alone = trainer.evaluate(sets["far"].with_format("torch"), metric_key_prefix="far")
    found = trainer.evaluate()
    assert found["eval_far_kl"] == alone["far_kl"] and found["eval_kl"] == found["eval_near_kl"] != alone["far_kl"]
    near = [entry["eval_near_kl_recovered"] for entry in trainer.state.log_history if "eval_near_kl" in entry]
    assert trainer.state.best_metric == near[0] == trainer.record().history[0]["kl_recovered"]


def test_numbers_of_your_own_are_logged_beside_ours(tmp_path: Path) -> None:
    seen: list[EvalPrediction] = []

    def count(prediction: EvalPrediction) -> dict[str, float]:
        seen.append(prediction)
        rows: Any = prediction.predictions
        return {"kl_median": float(np.median(rows["kl"])), "eval_again": float(rows["kl"].mean())}

    run = {"eval_strategy": "steps", "eval_steps": 2, "ema_decay": 0.5}
    trainer = trainer_on(tmp_path, tiny_rows(), run, compute_metrics=count)
    trainer.train()
    (logged,) = [entry for entry in trainer.state.log_history if "eval_kl" in entry]
    rows: Any = seen[0].predictions
    assert logged["eval_kl_median"] == float(np.median(rows["kl"])) and "eval_ema_kl_median" in logged
    assert logged["eval_again"] == pytest.approx(logged["eval_kl"])
    assert seen[0].label_ids is None
    assert {"kl", "kl_of_baseline", "top1", "cosine", "original", "restored", "explanation"} <= {*rows}
    assert all(len(value) == SHORT["eval_rows"] for value in rows.values())
    assert rows["restored"].shape == rows["original"].shape == (8, 32)


@pytest.mark.parametrize(
    ("found", "named"), [({"kl": 0.0}, "Give it another name"), (0.5, "Let it return a dict of numbers")]
)
def test_numbers_that_cannot_be_logged_are_refused(tmp_path: Path, found: Any, named: str) -> None:
    trainer = trainer_on(tmp_path, tiny_rows(), compute_metrics=lambda prediction: found)
    with pytest.raises(BadInput, match=named):
        trainer.evaluate()


def test_an_optimizer_and_a_scheduler_of_your_own_are_used(tmp_path: Path) -> None:
    frozen = shared_lm("llama")
    lens = tiny_lens(frozen)
    weights = [p for part in lens.parts().values() for p in part.values()]
    optimizer = torch.optim.SGD(weights, lr=0.125)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    args = arguments(tmp_path, max_steps=3, warm_steps=2)
    trainer = ConsistencyLensTrainer(lens, args, tiny_rows(), optimizers=(optimizer, scheduler), frozen=frozen)
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "loss" in entry]
    assert rates == [0.125, 0.0625, 0.03125] and optimizer.param_groups[0]["lr"] == 0.125 / 8


def test_a_callback_and_a_collator_of_your_own_are_used(tmp_path: Path) -> None:
    own, steps, batches = tiny_rows().collator(sites=[SITE]), [], []

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            steps.append(state.global_step)

    def collate(rows: Any) -> dict[str, Any]:
        batches.append(len(rows))
        return own(rows)

    found = losses(trainer_on(tmp_path / "own", tiny_rows(), data_collator=collate, callbacks=[Watch()]))
    assert steps == [1, 2] and 6 in batches
    assert found == losses(trainer_on(tmp_path / "ours", tiny_rows()))


def test_a_lens_that_is_made_anew_trains_as_one_that_is_given(tmp_path: Path) -> None:
    frozen, made, trials = shared_lm("llama"), [], []

    def make(trial: Any) -> ConsistencyLens:
        trials.append(trial)
        made.append(tiny_lens(frozen))
        return made[-1]

    run = {"ema_decay": 0.5, "eval_strategy": "steps", "eval_steps": 2}
    trainer = trainer_on(tmp_path / "made", tiny_rows(), run, model_init=make)
    first, second = losses(trainer), losses(trainer)
    assert len(made) == 3 and trainer.lens is made[-1] is trainer.model
    assert first == second and len(first) == 2
    set_seed(arguments(tmp_path).seed)
    assert losses(trainer_on(tmp_path / "given", tiny_rows(), run)) == first
    assert trials == [None, None, None]


def test_a_trial_is_given_to_what_makes_its_lens(tmp_path: Path) -> None:
    pytest.importorskip("wandb")  # whose trials are dicts
    frozen, trials = shared_lm("llama"), []

    def make(trial: Any) -> ConsistencyLens:
        trials.append(trial)
        return tiny_lens(frozen)

    trainer_on(tmp_path, tiny_rows(), model_init=make).train(trial={"learning_rate": 1e-3})
    assert trials == [None, {"learning_rate": 1e-3}]


def test_a_search_needs_a_lens_for_each_trial_and_saves_nothing(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="model_init=None: each trial begins with a lens of its own"):
        trainer_on(tmp_path / "given", tiny_rows()).hyperparameter_search()
    run = {"save_strategy": "steps", "save_steps": 1}
    trainer = trainer_on(tmp_path / "made", tiny_rows(), run, model_init=lambda: tiny_lens(shared_lm("llama")))
    with pytest.raises(BadInput, match="save_strategy='steps': all trials share the run folder"):
        trainer.hyperparameter_search()


def test_a_lens_of_another_site_cannot_take_the_place_of_the_first(tmp_path: Path) -> None:
    frozen, sites = shared_lm("llama"), iter([SITE, "resid_post.2"])

    def make() -> ConsistencyLens:
        return ConsistencyLens.from_subject(frozen, next(sites), prompt="w1 w2 <A> w3", code_length=5)

    trainer = trainer_on(tmp_path, tiny_rows(), model_init=make)
    with pytest.raises(BadInput, match=r"model_init='resid_post.2': a lens of another site"):
        trainer.train()


def test_a_lens_that_was_trained_is_not_the_beginning_of_another_trial(tmp_path: Path) -> None:
    """It would go on from the weights of the trial before, and every trial would look better than the last."""
    frozen = shared_lm("llama")
    one = tiny_lens(frozen)
    trainer = trainer_on(tmp_path / "one", tiny_rows(), model_init=lambda: one)
    with pytest.raises(BadInput, match="model_init='ConsistencyLens': it returned a lens that it has made before"):
        trainer.train()
    two = [tiny_lens(frozen), tiny_lens(frozen)]
    turns = iter([two[0], two[1], two[0]])
    trainer = trainer_on(tmp_path / "two", tiny_rows(), model_init=lambda: next(turns))
    trainer.train()
    with pytest.raises(BadInput, match="Let it make a new lens each time"):
        trainer.train()


def test_rows_of_your_own_without_held_out_ones_are_trained_on_and_saved(tmp_path: Path) -> None:
    trainer = trainer_on(tmp_path, plain(), {"save_strategy": "steps", "save_steps": 2})
    trainer.train()
    assert (tmp_path / "checkpoint-2" / "README.md").exists()
    assert trainer.record().counts == {"train": (len(set(plain()["doc_id"])), len(plain()))}
    with pytest.raises(BadInput, match="eval_dataset=None: there are no rows to evaluate on"):
        trainer.evaluate()


def test_rows_of_your_own_are_judged_by_a_report() -> None:
    frozen = shared_lm("llama")
    rows = Activations.from_dataset(plain(), frozen, SITE, plain("validation"))
    report = evaluate_lens(tiny_lens(frozen), frozen, rows, split="validation", horizon=4, max_rows=8, batch_size=4)
    assert report.data["rows"] == 8 and report.data["documents_of_split"] == len(set(plain("validation")["doc_id"]))


@pytest.mark.parametrize(
    ("changes", "names", "named"),
    [
        ({}, {"model_init": tiny_lens, "model": "a lens"}, "there is a model_init, too"),
        ({}, {"model": None}, "neither a model nor a model_init"),
        ({}, {"model_init": lambda: tiny_lens(shared_lm("llama")), "optimizers": ("sgd", None)}, "optimizers='given'"),
        ({"torch_compile": True}, {"model_init": lambda: tiny_lens(shared_lm("llama"))}, "model_init='given'"),
        ({"auto_find_batch_size": True}, {"optimizers": ("sgd", None)}, "auto_find_batch_size=True"),
    ],
)
def test_what_excludes_each_other_is_refused(
    tmp_path: Path, changes: dict[str, Any], names: dict[str, Any], named: str
) -> None:
    frozen = shared_lm("llama")
    lens = {} if "model_init" in names else {"model": tiny_lens(frozen)}
    args = arguments(tmp_path, **changes)
    with pytest.raises(BadInput, match=named):
        ConsistencyLensTrainer(**(lens | {"args": args, "train_dataset": tiny_rows(), "frozen": frozen} | names))


def test_the_names_of_before_are_refused_with_those_of_now(tmp_path: Path) -> None:
    frozen, rows, args = shared_lm("llama"), tiny_rows(), arguments(tmp_path)
    lens: Any = tiny_lens(frozen)
    calls: dict[str, Callable[[], Any]] = {
        "args='FrozenLM'.*frozen has to be named": lambda: ConsistencyLensTrainer(lens, frozen, args, rows),
        "lens=.*its name is model": lambda: ConsistencyLensTrainer(lens=lens, args=args, frozen=frozen),
        "activations=.*its name is train_dataset": lambda: ConsistencyLensTrainer(
            lens, args, activations=rows, frozen=frozen
        ),
        "tokenizer=.*nothing of that name": lambda: ConsistencyLensTrainer(lens, args, rows, tokenizer=1),
        "frozen=None": lambda: ConsistencyLensTrainer(lens, args, rows),
        "args='NoneType'": lambda: ConsistencyLensTrainer(lens, None, rows, frozen=frozen),
        "train_dataset='NoneType'": lambda: ConsistencyLensTrainer(lens, args, frozen=frozen),
    }
    for named, call in calls.items():
        with pytest.raises(BadInput, match=named):
            call()
    assert isinstance(args, LensTrainingArguments)


def without(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda row: {key: value for key, value in row.items() if key != name}


BAD: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    **{
        f"without {name}": (without(name), f"train_dataset='{name}': the column is missing.*Add a column {name}")
        for name in ("input_ids", "position", "doc_id", SITE)
    },
    "narrow": (lambda row: row | {SITE: row[SITE][:7]}, "its vectors have 7 numbers.*which have 32"),
    "ragged": (lambda row: row | {SITE: row[SITE][: 5 + row["position"] % 2]}, "no vectors of one length"),
    "whole numbers": (lambda row: row | {SITE: [1] * 32}, "its numbers are of the type int"),
    "infinite": (lambda row: row | {SITE: [float("inf"), *row[SITE][1:]]}, "a number that is not finite"),
    "beyond": (lambda row: row | {"input_ids": [VOCABULARY]}, "train_dataset.input_ids=96: a token id beyond"),
    "further": (lambda row: row | {"continuation_ids": [VOCABULARY]}, "train_dataset.continuation_ids=96"),
    "words": (lambda row: row | {"input_ids": ["w1", "w2"]}, "train_dataset='input_ids'.*Give lists of token ids"),
    "text": (lambda row: row | {"input_ids": "w1 w2"}, "train_dataset='input_ids'.*it holds no lists"),
    "empty": (lambda row: row | {"input_ids": []}, "a context is empty"),
    "named": (lambda row: row | {"doc_id": f"d{row['doc_id']}"}, "Give integers from 0 in the column doc_id"),
    "repeated": (lambda row: row | {"doc_id": 0, "position": 0}, "the same doc_id and position"),
}


@pytest.mark.parametrize("case", BAD)
def test_rows_that_cannot_be_trained_on_are_refused(tmp_path: Path, case: str) -> None:
    change, named = BAD[case]
    with pytest.raises(BadInput, match=named):
        trainer_on(tmp_path, changed(change))


def test_held_out_rows_are_checked_as_well(tmp_path: Path) -> None:
    bare = plain("validation").remove_columns("doc_id")
    for given in (tiny_rows(), plain()):
        for eval_dataset in (bare, {"one": plain("validation"), "other": bare}):
            with pytest.raises(BadInput, match="eval_dataset='doc_id': the column is missing"):
                trainer_on(tmp_path, given, eval_dataset=eval_dataset)


@pytest.mark.parametrize(
    ("given", "names", "named"),
    [
        ([{"input_ids": [1]}], {}, "train_dataset='list'.*Give Activations, the path"),
        (DatasetDict({"validation": Dataset.from_list([{"a": 1}])}), {}, "there is no split named train"),
        ("nowhere/at-all/to/be-found", {}, "activations='nowhere"),
        (5, {}, "train_dataset='int'"),
        (Dataset.from_list([]), {}, "the column is missing; there are none"),
    ],
)
def test_what_is_no_data_set_is_refused(tmp_path: Path, given: Any, names: dict[str, Any], named: str) -> None:
    with pytest.raises(BadInput, match=named):
        trainer_on(tmp_path, given, **names)


def test_a_stream_is_not_evaluated_on(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"eval_dataset='IterableDataset'.*looks at the same of its rows"):
        trainer_on(tmp_path, plain(), eval_dataset=plain("validation").to_iterable_dataset())


def test_a_site_has_to_be_named_where_no_column_is_named_after_one() -> None:
    rows = plain().rename_column(SITE, "vector")
    with pytest.raises(BadInput, match="none is named after a site"):
        Activations.from_dataset(rows, shared_lm("llama"))


@pytest.mark.parametrize("rows", [0, None])
def test_an_evaluation_without_rows_is_refused_at_the_start(rows: int | None, tmp_path: Path) -> None:
    held_out = {} if rows is None else {"validation": plain("validation").select(range(rows))}
    given = DatasetDict({"train": plain(), **held_out})
    with pytest.raises(BadInput, match="there are no rows to evaluate on") as caught:
        trainer_on(tmp_path, given if rows is None else replace(tiny_rows(), splits=given), {"eval_strategy": "epoch"})
    assert caught.value.field == "eval_dataset"


def test_a_run_that_evaluates_nothing_needs_no_held_out_rows(tmp_path: Path) -> None:
    given = DatasetDict({"train": plain(), "validation": plain("validation").select([])})
    trainer = trainer_on(tmp_path, replace(tiny_rows(), splits=given), {"sample_steps": 1})
    assert len(losses(trainer)) == SHORT["max_steps"]
    with pytest.raises(BadInput, match="there are no rows to evaluate on"):
        trainer.evaluate(plain("validation").select([]))


def test_a_refusal_names_the_trainer_that_was_called(tmp_path: Path) -> None:
    class OtherTrainer(ConsistencyLensTrainer):
        pass

    frozen = shared_lm("llama")
    with pytest.raises(BadInput, match=r"Write OtherTrainer\(model=lens"):
        OtherTrainer(tiny_lens(frozen), arguments(tmp_path), tiny_rows())
    with pytest.raises(BadInput, match=r"OtherArguments\(output_dir\)"):
        OtherTrainer(tiny_lens(frozen), None, tiny_rows(), frozen=frozen)


@pytest.mark.parametrize("value", ["much", None, [1.0, 2.0], torch.ones(2)])
def test_what_is_no_number_is_no_metric(value: Any, tmp_path: Path) -> None:
    trainer = trainer_on(tmp_path, tiny_rows(), compute_metrics=lambda prediction: {"mine": value})
    with pytest.raises(BadInput, match="Let it return numbers by name"):
        trainer.evaluate()


@pytest.mark.parametrize(
    "changes", [{"remove_unused_columns": True}, {"label_smoothing_factor": 0.1}, {"neftune_noise_alpha": 5.0}]
)
def test_arguments_that_mean_nothing_to_a_lens_are_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    (name,) = changes
    with pytest.raises(BadInput, match="Leave it out") as caught:
        arguments(tmp_path, **changes)
    assert caught.value.field == name


def test_the_rows_that_are_trained_on_are_no_held_out_set(tmp_path: Path) -> None:
    frozen, rows = shared_lm("llama"), tiny_rows()
    with pytest.raises(BadInput, match=r"eval_dataset='train'.*trained on"):
        ConsistencyLensTrainer(tiny_lens(frozen), arguments(tmp_path), rows, dict(rows.splits), frozen=frozen)
