"""The toy family through the spine: nothing of the package names it, and everything of the package takes it."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from toy_family import FAMILY, WRITES, ToyLens, without_mlps
from toy_runs import STEPS, toy_lens, toy_models, toy_passages, toy_trainer
from transformers import TrainerCallback

from consistency_lens.auto import FAMILIES, AutoLens, evaluate_lens
from consistency_lens.base.comparing import Joint, apply_lens
from consistency_lens.base.watching.samples import FILE
from consistency_lens.errors import BadInput
from consistency_lens.evaluation import Report
from consistency_lens.frozen import Edit, FrozenModels, ProvenanceMismatch


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one line that a family needs."""
    monkeypatch.setitem(FAMILIES, "toy", FAMILY)


def batch_of(rows: int = 4) -> dict[str, Any]:
    passages = toy_passages()
    return passages.collator(toy_models())([passages.splits["test"][i] for i in range(rows)])


@torch.no_grad()
def by_hand(lens: ToyLens, name: str, blocks: Any, act: Any) -> torch.Tensor:
    """What a model gives while plain hooks put the lens's values in the place of its MLPs."""
    seen: dict[str, torch.Tensor] = {}

    def enters(site: str) -> Any:
        return lambda module, args: seen.update({site: args[0]})

    def leaves(site: str) -> Any:
        return lambda module, args, output: lens.replaced(name, site, seen) if site in WRITES else output

    handles = []
    for number, block in enumerate(blocks):
        handles.append(block.register_forward_pre_hook(enters(f"resid_pre.{number}")))
        handles.append(block.mlp.register_forward_pre_hook(enters(f"mlp_in.{number}")))
        handles.append(block.mlp.register_forward_hook(leaves(f"mlp_out.{number}")))
    found: torch.Tensor = act()
    for handle in handles:
        handle.remove()
    return found


def test_its_edits_are_those_of_models_that_are_hooked_by_hand() -> None:
    lens, batch = toy_lens(), batch_of()
    applied = apply_lens(lens, toy_models(), batch)
    assert isinstance(applied.comparison, Joint)
    measured = applied.comparison.measure(applied.edits)
    for name, model in toy_models().items():
        tokens = batch["tokens"][name]["full"]
        blocks = model.model.model.layers if name == "words" else model.model.transformer.h
        edited = by_hand(lens, name, blocks, lambda tokens=tokens, model=model: model.logits(tokens))
        clean, mask = model.logits(tokens).log_softmax(-1), tokens["attention_mask"]
        kl = (clean.exp() * (clean - edited.log_softmax(-1))).sum(-1)
        torch.testing.assert_close(measured[f"kl/{name}"], (kl * mask).sum(1) / mask.sum(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(measured["kl"], (measured["kl/words"] + measured["kl/bytes"]) / 2)


def test_it_learns_and_says_so(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path, max_steps=40, eval_strategy="steps", eval_steps=40)
    before = trainer.measure()
    trainer.train()
    after = trainer.measure()
    assert after["kl_recovered"] > before["kl_recovered"] and after["kl_recovered"] > 0.2
    assert {"kl/words", "kl/bytes", "top1/words"} <= after.keys()
    logged = [entry for entry in trainer.state.log_history if "loss/mse" in entry]
    assert logged[-1]["loss/mse"] < logged[0]["loss/mse"] and logged[0]["tokens_per_second"] > 0
    rows = pq.read_table(tmp_path / FILE).to_pylist()
    assert [row["context"] for row in rows] and all(row["explanation"].startswith("f") for row in rows)
    trainer.write_card(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "features of each token" in card and "kl_recovered" in card


def test_it_comes_back_with_both_models(tmp_path: Path, known: None) -> None:
    lens = toy_lens().eval()
    lens.save_pretrained(tmp_path)
    models = dict(toy_models())
    found = AutoLens.from_pretrained(tmp_path, subject=models)
    assert isinstance(found, ToyLens) and list(found.models or ()) == ["words", "bytes"]
    batch = batch_of()
    ours, theirs = (apply_lens(each, toy_models(), batch).edited for each in (lens, found))
    assert torch.equal(ours, theirs)
    for wrong, error in [
        (FrozenModels([toy_models()["words"]]), BadInput),
        (FrozenModels([*models.values()][::-1]), BadInput),
        ({**models, "third": models["words"]}, BadInput),
    ]:
        with pytest.raises(error):
            AutoLens.from_pretrained(tmp_path, subject=wrong)
    swapped = json.loads((tmp_path / "config.json").read_text())
    swapped["other_models"]["bytes"]["tokenizer"] = "another"
    (tmp_path / "config.json").write_text(json.dumps(swapped))
    with pytest.raises(ProvenanceMismatch, match="bytes"):
        AutoLens.from_pretrained(tmp_path, subject=toy_models())


def test_its_report_has_every_control_and_each_model(tmp_path: Path, known: None) -> None:
    report = evaluate_lens(toy_lens(), toy_models(), toy_passages(), batch_size=4, horizon=0, progress=False)
    for code in ("lens", "mean", "halved"):
        assert report.number("kl_recovered", code).value <= 1
    assert report.number("kl_recovered", "self").value == 1 and report.number("kl", "self").value == 0
    assert report.number("kl_recovered", "mean").value == 0
    numbers = report.parts["all"].numbers["halved"]
    both = [numbers[f"kl/{name}"].value for name in toy_models()]
    assert numbers["kl"].value == pytest.approx(sum(both) / 2) and both[0] != both[1]
    assert all(f"kl_recovered/{name}" in report.definitions for name in toy_models())
    assert list(report.lens["models"]) == list(toy_models())
    assert "active" in report.traits and 0 <= report.traits["active"].value <= 1
    report.save(tmp_path)
    again = Report.load(tmp_path)
    assert again.to_dict() == report.to_dict() and "toy" in again.lens["family"]
    assert "halved" in (tmp_path / "report.md").read_text()


class Kill(TrainerCallback):
    """No chance to clean up, behind a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def _killed(folder: str) -> None:
    torch.set_num_threads(1)
    trainer = toy_trainer(folder, save_strategy="steps", save_steps=2)
    trainer.add_callback(Kill(5))
    trainer.train()


def test_a_kill_leaves_no_trace(tmp_path: Path) -> None:
    whole = toy_trainer(tmp_path / "whole", save_strategy="steps", save_steps=2)
    whole.train()
    process = multiprocessing.get_context("spawn").Process(target=_killed, args=(str(tmp_path / "parts"),))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    again = toy_trainer(tmp_path / "parts", save_strategy="steps", save_steps=2)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == STEPS
    ours, theirs = (dict(each.lens.named_parameters()) for each in (again, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    losses = [[e["loss"] for e in each.state.log_history if "loss" in e] for each in (again, whole)]
    assert losses[0] == losses[1]


def test_what_it_cannot_do_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="frozen"):
        toy_trainer(tmp_path, lens=toy_lens()).__class__(
            toy_lens(), toy_trainer(tmp_path).args, toy_passages(), frozen=toy_models()["words"]
        )
    edit = Edit("mlp_out.0", lambda read: read["resid_post.1"], None, reads=("resid_post.1",))
    with pytest.raises(BadInput, match=r"resid_post\.1"):
        toy_models()["words"].logits(batch_of()["tokens"]["words"]["full"], edit)
    with pytest.raises(BadInput, match="nobody"):
        toy_models().deal([Edit("mlp_out.0", torch.zeros(32), None, lm="nobody")])
    assert len(without_mlps(toy_models())) == 4
