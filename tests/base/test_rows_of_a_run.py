"""Which rows a trainer takes, in which batches; and what `Trainer` offers that a lens has to answer in its own way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from extracting import extract_to, random_texts
from lens_runs import SITE, WARM, arguments, first_batch, tiny_lens, tiny_rows, trainer_of
from tiny import shared_lm, tiny_lm, tiny_model

from consistency_lens.activations import Activations
from consistency_lens.base.comparing import TokenSwap
from consistency_lens.errors import BadInput
from consistency_lens.text.modeling import ConsistencyLens
from consistency_lens.text.trainer import ConsistencyLensTrainer


def test_an_epoch_may_leave_a_single_row(tmp_path: Path) -> None:
    rows = len(tiny_rows().splits["train"])
    batch = next(size for size in range(rows // 2, 1, -1) if rows % size == 1)
    per_epoch = rows // batch
    kwargs = {"per_device_train_batch_size": batch, "warm_start": "none", "estimator": "none"}
    trainer = trainer_of(tmp_path, max_steps=per_epoch + 1, **kwargs)
    assert trainer.train().global_step == per_epoch + 1


def test_rows_of_several_sites_serve_a_lens_of_one(tmp_path: Path) -> None:
    frozen = tiny_lm()
    extract_to(
        tmp_path / "rows",
        random_texts(40, shortest=8, longest=12),
        shared_lm("llama"),
        sites=["resid_post.0", SITE],
        continuation_length=4,
    )
    rows = Activations.load(tmp_path / "rows")
    trainer = ConsistencyLensTrainer(tiny_lens(frozen), arguments(tmp_path / "run"), rows, frozen=frozen)
    assert trainer.train().global_step == WARM + 2
    assert list(first_batch(trainer)["activations"]) == [SITE]


def test_an_evaluation_leaves_no_row_alone(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, eval_rows=9, per_device_eval_batch_size=8)
    batches = list(trainer.batches(9))
    assert [len(batch["doc_id"]) for batch in batches] == [5, 4]
    seen = {key for b in batches for key in zip(b["doc_id"].tolist(), b["position"].tolist(), strict=True)}
    assert len(seen) == 9


def test_another_split_can_be_evaluated(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    here = trainer.evaluate()
    there = trainer.evaluate(eval_dataset=tiny_rows().splits["test"].with_format("torch"), metric_key_prefix="test")
    assert trainer.evaluate() == here
    assert there["test_kl"] != here["eval_kl"] and len(there) == len(here)


def test_evaluating_leaves_the_mode_as_it_was(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    for mode in (True, False):
        trainer.lens.train(mode)
        trainer.measure()
        assert trainer.lens.training is mode


def test_too_few_rows_for_a_number_that_compares_them_do_not_spoil_the_others(tmp_path: Path) -> None:
    """Retrieval needs four rows in a batch; the rows of a smaller one do not count."""
    trainer = trainer_of(tmp_path, eval_rows=7, per_device_eval_batch_size=4)
    assert [len(batch["doc_id"]) for batch in trainer.batches(7)] == [4, 3]
    assert 0 <= trainer.measure()["retrieval"] <= 1


def test_a_lens_predicts_no_labels(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    with pytest.raises(BadInput, match="evaluate_lens"):
        trainer.predict(trainer.eval_dataset)


def test_a_batch_at_the_end_of_documents_is_judged_as_far_as_it_goes(tmp_path: Path) -> None:
    batch = dict(first_batch(trainer_of(tmp_path, kl_horizon=3)))
    short = batch | {name: batch[name][:, :1] for name in ("continuation_ids", "continuation_mask")}
    swap, one = TokenSwap.of(shared_lm("llama"), short, 3), TokenSwap.of(shared_lm("llama"), short, 1)
    assert swap.mask.sum(1).tolist() == (1 + short["continuation_mask"][:, 0]).tolist()
    other = torch.randn_like(one.clean)
    wide = torch.cat([other, torch.randn_like(swap.clean[:, 2:])], dim=1)
    torch.testing.assert_close(swap.kl(wide), one.kl(other))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"kl_horizon": 5}, "kl_horizon=5. Use at most 4"),
        ({"per_device_train_batch_size": 1000}, "per_device_train_batch_size=1000: there are"),
        ({"per_device_train_batch_size": 1}, "per_device_train_batch_size=1. Use 2 or more"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps=0. Use 1 or more"),
        ({"eval_rows": 1}, "eval_rows=1. Use 2 or more"),
        ({"sample_rows": 0}, "sample_rows=0. Use 1 or more"),
        ({"sample_steps": -1}, "sample_steps=-1. Use 0 or more"),
        ({"max_skipped_steps": -1}, "max_skipped_steps=-1. Use 0 or more"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0"),
        ({"decoder_learning_rate": 0.0}, "decoder_learning_rate=0.0"),
        ({"warm_learning_rate": -1.0}, "warm_learning_rate=-1.0"),
        ({"warm_steps": -1}, "warm_steps=-1"),
        ({"warm_sure": 1.5}, "warm_sure=1.5"),
        ({"warm_guess_share": 2.0}, "warm_guess_share=2.0"),
        ({"activation_checkpointing": True, "activation_checkpointing_kwargs": {"every_n_layers": 2}}, "Leave them"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(BadInput) as caught:
        trainer_of(tmp_path, **changes).train()
    assert named in str(caught.value)


def test_the_flag_of_transformers_reaches_the_parts_and_not_the_subject(tmp_path: Path) -> None:
    lens = tiny_lens(shared_lm("llama"))
    trainer = trainer_of(tmp_path, shared_lm("llama"), lens, activation_checkpointing=True)
    trainer.train()
    assert lens.decoder.checkpointing and lens.encoder.checkpointing
    assert not shared_lm("llama").model.is_activation_checkpointing


def test_the_folder_of_an_ordinary_model_is_no_lens(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path)
    with pytest.raises(BadInput, match=r"its config\.json names no frozen model"):
        ConsistencyLens.from_pretrained(tmp_path, subject=shared_lm("llama"))
