"""The toy family through the spine: nothing of the package names it, and everything of the package takes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from toy_family import WRITES, ToyLens, without_mlps
from toy_runs import toy_lens, toy_models, toy_passages, toy_trainer

from consistency_lens.base.comparing import Joint, apply_lens
from consistency_lens.errors import BadInput
from consistency_lens.frozen import Edit


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
