"""The report of a transcoder: every number of it written out, and its controls through the same pass."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import shared_lm
from transcoder_runs import blocks, trainer, transcoder

from consistency_lens.auto import evaluate_lens
from consistency_lens.errors import BadInput
from consistency_lens.evaluation import Report
from consistency_lens.frozen import Edit
from consistency_lens.sparse.modeling import CrosslayerTranscoder
from consistency_lens.sparse.report.controls import components, shuffled
from consistency_lens.sparse.use.replacing import kept_columns


@pytest.fixture(scope="module")
def lens(tmp_path_factory: pytest.TempPathFactory) -> CrosslayerTranscoder:
    made = trainer(tmp_path_factory.mktemp("trained"), max_steps=40)
    made.train()
    return made.lens.eval()


@pytest.fixture(scope="module")
def report(lens: CrosslayerTranscoder) -> Report:
    return evaluate_lens(lens, shared_lm("llama"), blocks(), batch_size=5, horizon=0, progress=False)


def test_it_has_every_control_and_each_layer_alone(report: Report, tmp_path: Path) -> None:
    assert report.groups["controls"] == ["shuffled", "random", "pca"]
    assert report.groups["each layer alone"] == [f"layer_{i}" for i in range(4)]
    assert report.number("kl", "self").value == 0 and report.number("kl_recovered", "self").value == 1
    assert report.number("kl_recovered", "mean").value == 0 and report.number("kl_div_score", "zero").value == 0
    assert report.number("kl_recovered").value > report.number("kl_recovered", "shuffled").value
    assert report.number("kl_recovered").value > report.number("kl_recovered", "random").value
    assert report.number("l0").value == pytest.approx(4.0) and report.number("l0", "layer_2").value == 4.0
    assert 0 <= report.number("dead").value <= 1
    for code in ("lens", "layer_0", "layer_3"):
        assert report.number("fvu", code).value == pytest.approx(1 - report.number("ev", code).value)
    shown = set(report.definitions)
    assert shown >= {
        "ev",
        "fvu",
        "l0",
        "dead",
        "ce_loss_score",
        "kl_div_score",
        "shuffled",
        "random",
        "pca",
        "layer_1",
    }
    report.save(tmp_path)
    assert Report.load(tmp_path).to_dict() == report.to_dict()
    assert "explains" in report.verdict


def test_without_each_layer_alone_all_else_is_the_same(lens: CrosslayerTranscoder, report: Report) -> None:
    shorter = evaluate_lens(lens, shared_lm("llama"), blocks(), batch_size=5, horizon=0, progress=False, alone=False)
    assert not shorter.groups.get("each layer alone")
    numbers = report.parts["all"].numbers
    assert shorter.parts["all"].numbers == {code: own for code, own in numbers.items() if "layer_" not in code}


def test_explained_variance_is_that_of_all_tokens(lens: CrosslayerTranscoder, report: Report) -> None:
    documents = blocks().documents("test")
    values = torch.cat([documents[i]["activations"] for i in range(len(documents))]).double()
    sites = list(blocks().sites)
    read, written = (
        values[:, [sites.index(s) for s in names]] for names in (lens.config.read_sites, lens.config.written_sites)
    )
    error = (lens.reconstruct(read.float()).detach() - written).square().sum((0, 2))
    spread = (written - written.mean(0)).square().sum((0, 2))
    assert report.number("ev").value == pytest.approx(float(1 - error.sum() / spread.sum()), abs=1e-4)
    for i in range(4):
        assert report.number("ev", f"layer_{i}").value == pytest.approx(float(1 - error[i] / spread[i]), abs=1e-4)


def test_one_layer_alone_is_what_stored_reconstructions_give(lens: CrosslayerTranscoder, report: Report) -> None:
    """With nothing replaced upstream, the value inside the pass is the reconstruction of the clean one."""
    model, documents, kl = shared_lm("llama"), blocks().documents("test"), []
    sites = list(blocks().sites)
    for i in range(len(documents)):
        batch = {"input_ids": documents[i]["input_ids"][None]}
        read = documents[i]["activations"][:, [sites.index(s) for s in lens.config.read_sites]]
        own = model.read(batch, "mlp_out.2")["mlp_out.2"]
        value = torch.cat([own[:, :1], lens.reconstruct(read.float())[None, :, 2]], 1)
        clean, edited = model.logits(batch), model.logits(batch, Edit("mlp_out.2", value.detach(), None))
        log_clean = clean.log_softmax(-1)
        kl.append((log_clean.exp() * (log_clean - edited.log_softmax(-1))).sum(-1)[0, 1:].mean())
    assert report.number("kl", "layer_2").value == pytest.approx(float(torch.stack(kl).mean()), rel=1e-3)


def test_features_are_dealt_to_other_tokens_and_to_no_padding(lens: CrosslayerTranscoder) -> None:
    batch = {"input_ids": torch.randint(4, 90, (3, 6)), "attention_mask": torch.ones(3, 6, dtype=torch.long)}
    batch["attention_mask"][1, :3] = 0
    model = shared_lm("llama")
    own = model.logits(batch, lens.replaced(batch))
    mixed = model.logits(batch, shuffled(lens, batch, 0))
    moved = ~kept_columns(batch, batch["input_ids"])
    assert int(moved.sum()) == 5 + 2 + 5
    assert not torch.isclose(own, mixed).all(-1)[moved].any()
    torch.testing.assert_close(own[:, 0][[0, 2]], mixed[:, 0][[0, 2]])


def test_principal_components_leave_the_least_error() -> None:
    samples = torch.randn(200, 2, 6, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 7.0)
    for index, basis in enumerate(components(samples, [2, 6])):
        centred = samples[:, index] - samples[:, index].mean(0)
        left = (centred - centred @ basis @ basis.T).square().sum()
        singular = torch.linalg.svdvals(centred)[basis.shape[1] :]
        assert float(left) == pytest.approx(float(singular.square().sum()), abs=1e-2)


def test_what_cannot_be_judged_is_refused_by_name(lens: CrosslayerTranscoder) -> None:
    model = shared_lm("llama")
    with pytest.raises(BadInput, match="split"):
        evaluate_lens(lens, model, blocks(), split="nowhere", horizon=0, progress=False)
    with pytest.raises(BadInput, match="across_layers"):
        evaluate_lens(transcoder(nonlinearity="batchtopk", across_layers=True), model, blocks(), horizon=0)
