"""What training any lens needs: weighed and logged terms, rates per part, averages, and no bad step."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from lens_runs import SITE, arguments, changed, copies, first_batch, stirred, tiny_lens, tiny_rows, trainer_of
from safetensors.torch import load_file
from tiny import tiny_lm
from torch import Tensor
from transformers import TrainerCallback

from consistency_lens.base.watching.callbacks import MovingAverage
from consistency_lens.errors import BadInput
from consistency_lens.frozen import Edit, ProvenanceMismatch
from consistency_lens.text.trainer import ConsistencyLensTrainer


class Spoiled(ConsistencyLensTrainer):
    """Some steps have gradients that are not finite: with a loss that is not, or with one that is."""

    bad_steps: tuple[int, ...] = (2,)
    finite_loss = False

    def compute_loss(self, model: Any, inputs: Any, **kwargs: Any) -> Any:
        loss = super().compute_loss(model, inputs, **kwargs)
        if self.state.global_step not in self.bad_steps:
            return loss
        # The gradient of a root at 0 is infinite.
        return loss + (self.lens.decoder.map.bias * 0).sum().sqrt() if self.finite_loss else loss * math.nan


def spoiled(folder: Path, **changes: Any) -> Spoiled:
    frozen = tiny_lm()
    return Spoiled(tiny_lens(frozen), arguments(folder, **changes), tiny_rows(), frozen=frozen)


def logs(trainer: ConsistencyLensTrainer) -> list[dict[str, float]]:
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def test_a_loss_is_the_weighed_sum_of_the_means_of_its_terms(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, kl_weight="linear(2, 0, 10)", mse_weight="0.5")
    trainer.state.global_step = 5
    terms = {name: torch.randn(6, requires_grad=True) for name in ("kl", "mse")}
    means = {name: term.mean().item() for name, term in terms.items()}
    loss = trainer.settle(terms)
    assert loss.item() == pytest.approx(1.0 * means["kl"] + 0.5 * means["mse"], abs=1e-6)
    loss.backward()
    torch.testing.assert_close(terms["mse"].grad, torch.full((6,), 0.5 / 6))
    assert trainer.settle({"kl": terms["kl"]}).item() == pytest.approx(means["kl"], abs=1e-6)
    seen: dict[str, float] = {"loss": 0.0}
    trainer.log(seen)
    assert seen["loss/kl"] == pytest.approx(means["kl"], abs=1e-6)
    assert (seen["weight/kl"], seen["weight/mse"]) == (1.0, 0.5)


def test_every_term_and_its_weight_is_logged_at_each_step(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, kl_weight="linear(1, 0, 4)", mse_weight="constant(2, warmup=8)", max_steps=5)
    trainer.train()
    functional = logs(trainer)[2:]
    assert [entry["weight/kl"] for entry in functional] == pytest.approx([0.5, 0.25, 0.0])
    assert [entry["weight/mse"] for entry in functional] == pytest.approx([0.5, 0.75, 1.0])
    for entry in logs(trainer):
        terms = [name.removeprefix("loss/") for name in entry if name.startswith("loss/")]
        assert len(terms) >= 2
        total = sum(entry[f"weight/{name}"] * entry[f"loss/{name}"] for name in terms)
        assert entry["loss"] == pytest.approx(total, rel=1e-3, abs=1e-4)
        assert {f"grad_norm/{part}" for part in ("decoder", "encoder", "maps")} <= entry.keys()
        assert entry["samples_per_second"] > 0 and entry["tokens_per_second"] > entry["samples_per_second"]
        assert entry["skipped_steps"] == 0
    assert all(0 < entry["distinct"] <= 1 for entry in functional)


def test_gradient_norms_are_those_of_the_parts(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, max_steps=1, max_grad_norm=1e9)
    found: dict[str, float] = {}

    class Look(TrainerCallback):
        def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
            for part, parameters in trainer.lens.parts().items():
                squares = [p.grad.square().sum() for p in parameters.values() if p.grad is not None]
                found[part] = float(torch.stack(squares).sum().sqrt())

    trainer.add_callback(Look())
    trainer.train()
    for part, norm in found.items():
        assert logs(trainer)[0][f"grad_norm/{part}"] == pytest.approx(norm, rel=1e-4)
    assert logs(trainer)[0]["grad_norm"] == pytest.approx(math.hypot(*found.values()), rel=1e-4)


def test_each_part_has_a_learning_rate_of_its_own(tmp_path: Path) -> None:
    rates = {"decoder": 1e-3, "encoder": 3e-4, "maps": 5e-2}
    given = {f"{part}_learning_rate": rate for part, rate in rates.items() if part != "decoder"}
    trainer = trainer_of(tmp_path, weight_decay=0.1, warm_start="none", **given)
    optimizer = trainer.create_optimizer()
    found: dict[int, tuple[float, float]] = {}
    for group in optimizer.param_groups:
        found |= {id(p): (group["lr"], group["weight_decay"]) for p in group["params"]}
    for part, parameters in trainer.lens.parts().items():
        for name, p in parameters.items():
            decay = 0.0 if "norm" in name or name.endswith("bias") else 0.1
            assert found.pop(id(p)) == (rates[part], decay), name
    assert not found, "a parameter of no part"


# Gradients that are not finite.


@pytest.mark.parametrize("finite_loss", [False, True])
def test_a_bad_step_is_skipped_and_counted(tmp_path: Path, finite_loss: bool) -> None:
    trainer = spoiled(tmp_path, weight_decay=0.1)
    trainer.finite_loss = finite_loss
    seen: list[dict[str, Tensor]] = []

    class Look(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            seen.append(copies(trainer.trainable))

    trainer.add_callback(Look())
    trainer.train()
    assert changed(trainer.trainable, seen[3])
    assert all(torch.equal(seen[2][name], seen[3][name]) for name in seen[2])
    assert any(not torch.equal(seen[1][name], seen[2][name]) for name in seen[2])
    assert [entry["skipped_steps"] for entry in logs(trainer)] == [0, 0, 1, 1]
    assert all(bool(p.isfinite().all()) for p in trainer.trainable.values())


def test_too_many_bad_steps_stop_the_run_and_leave_the_batch(tmp_path: Path) -> None:
    trainer = spoiled(tmp_path, max_skipped_steps=1)
    trainer.bad_steps = (0, 1)
    before = copies(trainer.trainable)
    with pytest.raises(BadInput, match=r"max_skipped_steps=1.*bad_batch-1-0\.safetensors") as caught:
        trainer.train()
    assert "2 steps were not finite" in str(caught.value)
    batch = load_file(tmp_path / "bad_batch-1-0.safetensors")
    assert batch[SITE].shape == (6, 32) and len(batch["input_ids"]) == len(batch["doc_id"]) == 6
    assert not changed(trainer.trainable, before)


# The moving average.


def test_averages_are_those_of_a_slow_loop(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, ema_decay=0.6, max_steps=5)
    assert trainer.average is not None
    slow = {name: p.detach().double().clone() for name, p in trainer.trainable.items()}

    class Slow(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            decay = min(0.6, (1 + state.global_step) / (10 + state.global_step))
            for name, p in trainer.trainable.items():
                slow[name] = decay * slow[name] + (1 - decay) * p.detach().double()

    trainer.add_callback(Slow())
    trainer.train()
    assert trainer.average.averages.keys() == trainer.trainable.keys() == slow.keys()
    for name, average in trainer.average.averages.items():
        torch.testing.assert_close(average, slow[name].float(), rtol=1e-5, atol=1e-7)
    assert changed(trainer.trainable, trainer.average.averages)


def test_averages_do_not_move_in_a_step_that_is_not_taken(tmp_path: Path) -> None:
    trainer = spoiled(tmp_path, ema_decay=0.5, weight_decay=0.1)
    assert trainer.average is not None
    average, seen = trainer.average, []

    class Look(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            seen.append({name: tensor.clone() for name, tensor in average.averages.items()})

    trainer.add_callback(Look())
    trainer.train()
    moved = [any(not torch.equal(one[name], two[name]) for name in one) for one, two in pairwise(seen)]
    assert moved == [True, False, True], "the third of four steps is the bad one"


def test_averages_hold_nothing_that_is_frozen(tmp_path: Path) -> None:
    frozen = tiny_lm()
    lens = tiny_lens(frozen, trainable="lora")
    trainer = trainer_of(tmp_path, frozen, lens, ema_decay=0.9)
    assert trainer.average is not None
    assert len(trainer.average.averages) == sum(p.requires_grad for p in lens.parameters())
    assert all("lora_" in name or ".map." in name for name in trainer.average.averages)


def test_averages_are_evaluated_and_saved_beside_the_raw_weights(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, ema_decay=0.9, max_steps=4, save_strategy="steps", save_steps=4)
    trainer.train()
    assert trainer.average is not None
    raw = copies(trainer.trainable)
    metrics = trainer.evaluate()
    assert not changed(trainer.trainable, raw)
    with trainer.average.in_place():
        by_hand = trainer.measure()
    assert {k: v for k, v in metrics.items() if "ema" in k} == {f"eval_ema_{k}": v for k, v in by_hand.items()}
    assert metrics["eval_ema_kl_recovered"] != metrics["eval_kl_recovered"]
    saved = load_file(tmp_path / "checkpoint-4" / MovingAverage.FILE)
    assert saved.keys() == raw.keys()
    assert all(torch.equal(saved[name], trainer.average.averages[name]) for name in saved)
    with pytest.raises(RuntimeError), trainer.average.in_place():
        raise RuntimeError
    assert not changed(trainer.trainable, raw)


# Evaluation.


def test_evaluation_is_what_the_whole_sequence_says(tmp_path: Path) -> None:
    """Against passes over whole sequences, row by row, with other formulas."""
    frozen = tiny_lm()
    lens = stirred(tiny_lens(frozen))
    trainer = trainer_of(tmp_path, frozen, lens, kl_horizon=2, eval_rows=12)
    found = trainer.measure()
    assert found == trainer.measure()
    kl, kl_mean, top1, squares, spread, cosines = [], [], [], [], [], []
    for batch in trainer.batches(12):
        original = batch["activations"][SITE].float()
        restored = lens.restore(lens.compress(batch), batch)[0].value
        said = [frozen.logits(batch, edits, keep=1)[:, 0].log_softmax(-1) for edits in ([], Edit(SITE, restored))]
        at_mean = frozen.logits(batch, Edit(SITE, trainer.means[0]), keep=1)[:, 0].log_softmax(-1)
        for q, into in ((said[1], kl), (at_mean, kl_mean)):
            into += torch.nn.functional.kl_div(q, said[0], log_target=True, reduction="none").sum(-1).tolist()
        top1 += (said[0].argmax(-1) == said[1].argmax(-1)).tolist()
        squares += (restored - original).square().sum(-1).tolist()
        spread += (original - trainer.means[0]).square().sum(-1).tolist()
        cosines += torch.cosine_similarity(restored, original).tolist()
    assert len(kl) == 12
    assert found["kl_recovered"] == pytest.approx(1 - sum(kl) / sum(kl_mean), abs=1e-4)
    assert found["kl"] == pytest.approx(sum(kl) / 12, abs=1e-4)
    assert found["top1"] == pytest.approx(sum(top1) / 12)
    assert found["fve"] == pytest.approx(1 - sum(squares) / sum(spread), abs=1e-4)
    assert found["cosine"] == pytest.approx(sum(cosines) / 12, abs=1e-5)
    assert math.isfinite(found["kl_horizon_recovered"]) and 0 < found["distinct"] <= 1
    assert lens.training


def test_the_best_checkpoint_is_the_one_that_recovers_most(tmp_path: Path) -> None:
    steps = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    trainer = trainer_of(tmp_path, load_best_model_at_end=True, learning_rate=0.1, warm_learning_rate=0.1, **steps)
    trainer.train()
    found = {e["step"]: e["eval_kl_recovered"] for e in trainer.state.log_history if "eval_kl_recovered" in e}
    best = max(found, key=lambda step: found[step])
    assert len(set(found.values())) > 1
    assert trainer.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{best}")
    saved = load_file(tmp_path / f"checkpoint-{best}" / "model.safetensors")
    assert torch.equal(saved["decoder.map.weight"], trainer.lens.decoder.map.weight)


# What is saved, and what cannot work.


def test_a_checkpoint_is_a_lens_with_its_arguments_in_plain_text(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, max_steps=3, save_strategy="steps", save_steps=3)
    trainer.train()
    folder = tmp_path / "checkpoint-3"
    again = type(trainer.lens).from_pretrained(folder, tiny_lm())
    assert not changed({n: p for part in again.parts().values() for n, p in part.items()}, copies(trainer.trainable))
    assert json.loads((folder / "training_args.json").read_text())["estimator"] == "policy"
    assert not (folder / "training_args.bin").exists()


@pytest.mark.parametrize("rank", [0, 1])
def test_one_process_writes_a_checkpoint(tmp_path: Path, rank: int) -> None:
    """transformers calls `_save` in every process; two writers would rename each other's files away."""
    trainer = trainer_of(tmp_path, max_steps=3, ema_decay=0.9)
    trainer.train()
    trainer.args.distributed_state.process_index = rank  # type: ignore[union-attr]
    try:
        trainer._save(str(tmp_path / "checkpoint"))
    finally:
        trainer.args.distributed_state.process_index = 0  # type: ignore[union-attr]
    assert bool(list(tmp_path.glob("checkpoint/*.safetensors"))) == (rank == 0)
    assert (tmp_path / "checkpoint").exists() == (rank == 0)


def test_a_lens_of_another_subject_is_refused_before_anything_begins(tmp_path: Path) -> None:
    with pytest.raises(ProvenanceMismatch, match="the lens"):
        trainer_of(tmp_path, tiny_lm("qwen3"), tiny_lens(tiny_lm()))
    other = tiny_lm("qwen3")
    with pytest.raises(ProvenanceMismatch, match="the activations"):
        trainer_of(tmp_path, other, tiny_lens(other))


def accumulated(
    folder: Path, batch: int, times: int, **changes: Any
) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    given = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": times, "max_grad_norm": 0.0}
    trainer = trainer_of(folder, max_steps=1, optim="sgd", learning_rate=1.0, **(given | changes))
    before = copies(trainer.trainable)
    trainer.train()
    moved = {name: p.detach() - before[name] for name, p in trainer.trainable.items()}
    return moved, logs(trainer)


def test_two_half_batches_are_one_batch(tmp_path: Path) -> None:
    """In the warm start, which knows no pairs: A' comes from the batch, so with Δ two halves have other partners."""
    whole, said = accumulated(tmp_path / "a", 8, 1)
    halves, said_too = accumulated(tmp_path / "b", 4, 2)
    for name, move in whole.items():
        torch.testing.assert_close(halves[name], move, rtol=1e-3, atol=1e-5)
    for name in ("loss", "loss/mse", "loss/start", "grad_norm/encoder", "grad_norm/decoder", "weight/mse"):
        assert said_too[0][name] == pytest.approx(said[0][name], rel=1e-3), name


def test_batches_of_one_step_have_noise_of_their_own(tmp_path: Path) -> None:
    seeds: list[int | None] = []

    class Listening(ConsistencyLensTrainer):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            seeds.append(self.noise.seed)
            return super().compute_loss(*args, **kwargs)

    frozen = tiny_lm()
    args = arguments(tmp_path, gradient_accumulation_steps=2, warm_start="none", max_steps=3)
    Listening(tiny_lens(frozen), args, tiny_rows(), frozen=frozen).train()
    assert len(seeds) == len(set(seeds)) == 6


def test_a_batch_holds_rows_of_several_documents(tmp_path: Path) -> None:
    batch = first_batch(trainer_of(tmp_path))
    assert bool((batch["doc_id"][batch["pair"]] != batch["doc_id"]).all())
