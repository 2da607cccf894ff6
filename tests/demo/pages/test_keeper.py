"""The model of pages is trained once, is whole or absent, and keeps a page in one activation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from consistency_lens.demo.pages import keeper
from consistency_lens.demo.pages.keeper import (
    STATE_SITE,
    KeeperConfig,
    keeper_hash,
    keeper_id,
    keeper_path,
    load_report,
    paged_config,
)
from consistency_lens.demo.pages.model import PagedLlamaForCausalLM
from consistency_lens.demo.pages.proof import prove_bottleneck
from consistency_lens.demo.pages.writing import stories
from consistency_lens.demo.tokenizer import build_tokenizer
from consistency_lens.demo.training import HELD_OUT_START
from consistency_lens.errors import BadInput
from consistency_lens.finding import is_demo, load_demo
from consistency_lens.frozen import FrozenLM

QUICK = KeeperConfig(
    num_layers=3,
    hidden_size=32,
    intermediate_size=48,
    num_heads=2,
    steps=4,
    curriculum=((1, 1), (2, 2)),
    batch_size=4,
    warmup_steps=2,
    held_out_stories=20,
    min_accuracy=0.0,
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path))
    return tmp_path / "consistency_lens"


def test_it_is_trained_once_and_loads_like_any_model(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = keeper_path(QUICK, progress=False)
    assert path == cache / keeper_id(QUICK) and is_demo(path.name) and [p.name for p in cache.iterdir()] == [path.name]
    lm = FrozenLM.from_pretrained(path)
    assert lm.model_id == path.name and isinstance(lm.model, PagedLlamaForCausalLM)
    assert load_report(path).num_positions == sum(len(row.fact_positions) for row in stories(20, 0, HELD_OUT_START))
    again = keeper.train_keeper(QUICK, progress=False)[0].state_dict()
    assert all(torch.equal(again[name], weight) for name, weight in lm.model.state_dict().items())

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(keeper, "train_keeper", refuse)
    assert keeper_path(QUICK, progress=False) == path


def test_another_config_is_another_model_and_one_that_knows_too_little_is_refused(cache: Path) -> None:
    assert len({keeper_hash(replace(QUICK, seed=seed)) for seed in range(3)}) == 3
    with pytest.raises(RuntimeError, match="nothing was cached"):
        keeper_path(replace(QUICK, min_accuracy=0.95), progress=False)
    assert not cache.exists()
    with pytest.raises(BadInput, match="another version of the demo world"):
        load_demo("pages-0123456789abcdef", None)


def test_the_proof_counts_what_it_says() -> None:
    """An untrained model says nothing; what is replaced by itself changes nothing."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    config = KeeperConfig(hidden_size=32, intermediate_size=48, num_heads=2)
    lm = FrozenLM(PagedLlamaForCausalLM(paged_config(config, tokenizer)), tokenizer, "pages-untrained")
    proof = prove_bottleneck(lm, STATE_SITE, stories(60, 0))
    assert 0 <= proof.behind.low <= proof.behind.value <= proof.behind.high <= 0.5
    assert proof.before_turning.value < 0.3 and proof.said.value < 0.1
    assert set(proof.said_by) == {"mean", "other", "rest"}
    assert proof.said_by["rest"].value == proof.said.value, "later tokens see the seal alone"


@pytest.mark.slow
def test_the_real_one_keeps_a_page_in_one_activation(cache: Path) -> None:
    path = keeper_path(progress=False)
    assert load_report(path).accuracy >= KeeperConfig.min_accuracy
    proof = prove_bottleneck(FrozenLM.from_pretrained(path), STATE_SITE, stories(1000, 0, HELD_OUT_START))
    assert proof.held.value >= 0.75 and proof.said.value >= 0.9
    assert proof.before_turning.high < 0.2 and proof.behind.high < 0.2
    assert proof.said_by["mean"].value < 0.2 and proof.said_by["other"].value < 0.2
    assert proof.said_by["rest"].value == proof.said.value
