"""Training a transcoder: the equation, what is logged, the weight that holds L0, exact resume, two processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from block_runs import block_extraction, extract_blocks
from safetensors.torch import save_file
from tiny import shared_lm, tiny_lm
from torch.nn import functional
from transcoder_runs import TEXTS, arguments, blocks, logged, trainer, transcoder

from consistency_lens.base.engines.engine import Engine
from consistency_lens.errors import BadInput
from consistency_lens.frozen import ProvenanceMismatch
from consistency_lens.sparse.configuration import FIRING
from consistency_lens.sparse.trainer import CrosslayerTranscoderTrainer
from consistency_lens.sparse.training.data import at_sites
from consistency_lens.sparse.training.holding import HeldSparsity

JUMPRELU = {"nonlinearity": "jumprelu", "k": None}


def test_it_is_standardised_by_the_statistics_of_all_training_tokens(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    source = blocks().source("train")
    values = torch.cat(
        [blocks().documents("train")[i]["activations"] for i in range(len(blocks().documents("train")))]
    ).double()
    assert len(values) == int(source.sizes.sum())
    written = values[:, made.source.written]
    scale = made.lens.targets.standardiser
    torch.testing.assert_close(scale.mean.double(), written.mean(0), rtol=1e-5, atol=1e-6)
    overall = written.var(0, correction=0).mean(1).sqrt()
    torch.testing.assert_close(scale.scale[:, 0].double(), overall, rtol=1e-5, atol=1e-6)


def test_sites_at_equal_distances_are_not_copied() -> None:
    activations = torch.randn(3, 8, 2)
    for sites in ([0, 2, 4, 6], [1, 3, 5, 7], [2, 3, 4], [0, 4], [0, 1, 3], [4, 2, 0], [5]):
        found = at_sites(activations, torch.tensor(sites))
        assert found.equal(activations[:, sites])
        assert (found.untyped_storage().data_ptr() == activations.untyped_storage().data_ptr()) == (
            sites not in ([0, 1, 3], [4, 2, 0], [5])
        )


def test_the_loss_is_the_equation(tmp_path: Path) -> None:
    made = trainer(tmp_path, transcoder(**JUMPRELU), sparsity_ramp=0.0, sparsity_weight="0.3", dead_after=1)
    inputs = next(iter(made.get_train_dataloader()))
    made.progress.firing.idle[:, :5] = 1  # dead
    loss = made.compute_loss(made.lens, inputs)
    lens, (read, written) = made.lens, made.source.split(inputs["activations"])
    x = lens.standardiser(read)
    y = lens.targets.standardiser(written)
    features, pre, sparsity, lacking = [], [], 0.0, 0.0
    for i, source in enumerate(lens.layers_in_order):
        assert source.threshold is not None and source.W_dec is not None
        pre.append(x[:, i] @ source.W_enc.T + source.b_enc)
        features.append(torch.where(pre[i] > source.threshold, pre[i], 0.0))
        norm = source.W_dec.norm(dim=1)
        sparsity += torch.tanh(0.1 * norm * features[i]).sum() / len(x)
        lacking += (functional.relu(source.threshold - pre[i]) * norm)[:, :5].sum() / len(x)
    rows = [source.W_dec.view(48, -1, 32) for source in lens.layers_in_order if source.W_dec is not None]
    given = torch.stack(
        [sum(features[i] @ rows[i][:, t - i] for i in range(t + 1)) + lens.targets.b_dec[t] for t in range(4)], 1
    )
    mse = (y - given).square().mean()
    error, dead = (y - given).detach(), [values[:, :5].relu() for values in pre]
    explained = torch.stack([sum(dead[i] @ rows[i][:5, t - i] for i in range(t + 1)) for t in range(4)], 1)
    auxiliary = (error - explained).square().sum() / error.square().sum()
    torch.testing.assert_close(loss, mse + 0.3 * sparsity + 1e-6 * lacking + auxiliary / 32, rtol=1e-4, atol=1e-5)


def test_the_kl_term_is_that_of_one_pass_with_all_sites_replaced(tmp_path: Path) -> None:
    made = trainer(tmp_path, kl_weight="1", kl_documents=2)
    first, again = (made.terms_of_passes()["kl"] for _ in range(2))
    assert first.shape == (2,) and torch.equal(first, again), "documents are a function of seed and step"
    first.mean().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for n, p in made.lens.named_parameters() if "W_" in n)


def test_the_kl_is_computed_in_the_last_steps_alone(tmp_path: Path) -> None:
    made = trainer(tmp_path, kl_weight="1", kl_documents=1, kl_share=0.5, max_steps=4)
    made.train()
    assert len(logged(made, "train_mse")) == 4 and len(logged(made, "loss/kl")) == len(logged(made, "weight/kl")) == 2


def test_it_learns_and_says_so(tmp_path: Path) -> None:
    made = trainer(tmp_path, max_steps=60, eval_strategy="steps", eval_steps=60)
    before = made.measure()
    made.train()
    after = made.measure()
    assert after["ev"] > before["ev"] + 0.2 and after["kl"] < before["kl"]
    assert after["replacement_model_accuracy"] == after["top1"]
    assert after["l0"] == pytest.approx(sum(after[f"l0/layer_{i}"] for i in range(4)) / 4)
    names = ("train_mse", "train_sparsity", "l0", "l0/layer_3", "dead", "tokens_per_second", "weight/sparsity")
    assert all(len(logged(made, name)) == 60 for name in names)
    assert logged(made, "train_mse")[-1] < logged(made, "train_mse")[0]
    assert logged(made, "train_mse") == logged(made, "loss/mse")
    assert logged(made, "eval_replacement_model_accuracy") == [after["top1"]]
    made.write_card(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "kl\\_recovered" in card and "features per layer and token" in card


def test_evaluation_is_that_of_the_report_of_one_document(tmp_path: Path) -> None:
    """Explained variance over the tokens of the documents, written out."""
    made = trainer(tmp_path, eval_rows=4)
    documents = blocks().documents("validation")
    order = torch.randperm(len(documents), generator=torch.Generator().manual_seed(0))[:4].tolist()
    values = torch.cat([documents[i]["activations"] for i in order])
    read, written = made.source.split(values)
    error = (made.lens.eval().reconstruct(read).detach() - written).double().square().sum((0, 2))
    spread = (written - written.mean(0)).double().square().sum((0, 2))
    measured = made.measure()
    assert measured["ev"] == pytest.approx(float(1 - error.sum() / spread.sum()), abs=1e-4)
    assert measured["ev/layer_2"] == pytest.approx(float(1 - error[2] / spread[2]), abs=1e-4)


def test_the_weight_is_a_function_of_what_is_logged(tmp_path: Path) -> None:
    given = {"target_l0": 6.0, "sparsity_weight": "0.05", "revive_steps": 0}
    made = trainer(tmp_path, transcoder(**JUMPRELU), **given)
    made.train()
    held, weights = HeldSparsity(6.0, 0.05), []
    for l0 in logged(made, "l0"):
        weights.append(held.weight)
        held = held.next(l0)
    assert logged(made, "held_lambda") == pytest.approx(weights, rel=1e-5)
    assert logged(made, "weight/sparsity") == logged(made, "held_lambda")
    assert weights[-1] > weights[0], "more features are active than shall be"


def test_it_ends_at_the_target_whatever_the_controller_left(tmp_path: Path) -> None:
    made = trainer(tmp_path, transcoder(**JUMPRELU), target_l0=6.0, sparsity_weight="0.05", max_steps=20)
    made.train()
    read = torch.cat([made.source.split(batch["activations"])[0] for batch in made.get_train_dataloader()])
    active = [float((each > 0).sum(1).double().mean()) for each in made.lens.encode(read, limit=0.0)]
    assert sum(active) / 4 == pytest.approx(6.0, rel=0.02)
    (before,) = logged(made, "l0_before_settling")
    assert before != pytest.approx(6.0, rel=0.02) and logged(made, "threshold_factor")


def test_dead_features_are_revived(tmp_path: Path) -> None:
    lens = transcoder()
    with torch.no_grad():
        lens.layers_in_order[1].b_enc[:20] = -100.0
    made = trainer(tmp_path, lens, max_steps=5, revive_steps=3, auxiliary_weight="0", preactivation_weight="0")
    made.train()
    assert logged(made, "revived")[0] >= 20
    assert bool((lens.layers_in_order[1].b_enc[:20] > -50).all())
    assert int(made.progress.firing.idle[1, :20].max()) <= 2 * 64, "they are given another chance"
    assert int(made.progress.firing.tokens) == 5 * 64


def test_a_stream_gives_what_stored_blocks_give(tmp_path: Path) -> None:
    stream = block_extraction(TEXTS, sites=["resid_mid.*", "mlp_out.*"]).stream(shared_lm("llama"))
    losses = []
    for name, data in (("stored", blocks()), ("streamed", stream)):
        made = trainer(tmp_path / name, data=data, max_steps=3)
        made.train()
        losses.append(logged(made, "loss"))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_checkpoint_without_its_counts_is_refused(tmp_path: Path) -> None:
    made = trainer(tmp_path, max_steps=2, save_strategy="steps", save_steps=1)
    made.train()
    (tmp_path / "checkpoint-1" / FIRING).unlink()
    with pytest.raises(BadInput, match=FIRING):
        trainer(tmp_path, max_steps=2).train(str(tmp_path / "checkpoint-1"))
    file = tmp_path / "checkpoint-2" / FIRING
    whole = file.read_bytes()
    save_file({"seen": torch.zeros(3)}, file)
    with pytest.raises(BadInput, match=f"{FIRING} does not fit"):
        trainer(tmp_path, max_steps=2).train(str(tmp_path / "checkpoint-2"))
    file.write_bytes(whole)
    with pytest.raises(BadInput, match="target_l0"):
        trainer(tmp_path, max_steps=2, target_l0=3.0).train(str(tmp_path / "checkpoint-2"))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"sparsity_ramp": 1.5}, "sparsity_ramp"),
        ({"kl_share": -0.1}, "kl_share"),
        ({"target_l0": 0.0}, "target_l0"),
        ({"sparsity_weight": "much"}, "sparsity_weight"),
        ({"dead_after": 0}, "dead_after"),
        ({"train_sampling_strategy": "random"}, "train_sampling_strategy"),
        ({"kl_horizon": 2}, "kl_horizon"),
    ],
)
def test_bad_arguments_are_refused_by_name(tmp_path: Path, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(BadInput, match=field):
        arguments(tmp_path, **changes)


def test_bad_data_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="sites"):
        trainer(tmp_path, transcoder(read_stage="mlp_in"))
    with pytest.raises(BadInput, match="per_device_train_batch_size"):
        trainer(tmp_path, per_device_train_batch_size=10_000)
    with pytest.raises(BadInput, match="train_dataset"):
        trainer(tmp_path, data=3)
    with pytest.raises(BadInput, match="across_layers"):
        trainer(tmp_path, transcoder(nonlinearity="batchtopk", across_layers=True), eval_strategy="steps")
    with pytest.raises(ProvenanceMismatch):
        CrosslayerTranscoderTrainer(transcoder(), arguments(tmp_path), blocks(), frozen=tiny_lm("qwen2"))


def test_engines_that_spread_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FSDP2 and ZeRO-3 spread what a revival changes and what `shard_features` deals out; FSDP2 needs a GPU."""
    made = trainer(tmp_path)
    for name, shares, field in (("zero3", False, "revive_steps"), ("zero2", True, "shard_features")):
        made.engine, made.args.shard_features = Engine(name, 2), shares
        with pytest.raises(BadInput, match=rf"{field}=.*{name} spreads"):
            made.require_engine()
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    with pytest.raises(BadInput, match="FSDP2 needs a GPU"):
        trainer(tmp_path, revive_steps=0)


def test_held_out_blocks_of_another_model_are_refused(tmp_path: Path) -> None:
    other = extract_blocks(tmp_path / "other", TEXTS, tiny_lm("gpt2"), sites=["resid_mid.*", "mlp_out.*"])
    for held_out in (other, {"a": blocks(), "b": other}):
        with pytest.raises(ProvenanceMismatch, match="the model and the blocks do not come from the same model"):
            CrosslayerTranscoderTrainer(
                transcoder(), arguments(tmp_path), blocks(), eval_dataset=held_out, frozen=shared_lm("llama")
            )


def test_the_order_has_the_seed_of_the_data_even_if_that_is_0(tmp_path: Path) -> None:
    orders = [
        trainer(tmp_path, **seeds).source.tokens.order.seed
        for seeds in ({"seed": 5}, {"seed": 5, "data_seed": 0}, {"seed": 5, "data_seed": 3})
    ]
    assert orders == [5, 0, 3]
