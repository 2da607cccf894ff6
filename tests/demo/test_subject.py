"""The frozen model is trained once, is whole or absent, and is refused where it does not know its stories."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from consistency_lens.demo import subject
from consistency_lens.demo.stories import stories
from consistency_lens.demo.subject import cache_folder, load_card, subject_hash, subject_path
from consistency_lens.demo.tokenizer import build_tokenizer
from consistency_lens.demo.training import (
    SubjectConfig,
    learning_rate_factor,
    measure,
    training_batches,
)

QUICK = SubjectConfig(
    num_layers=2,
    hidden_size=32,
    intermediate_size=64,
    num_heads=2,
    steps=6,
    curriculum=((2, 1), (4, 2)),
    batch_size=4,
    warmup_steps=2,
    held_out_stories=40,
    min_accuracy=0.0,
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path))
    return tmp_path / "consistency_lens"


def test_trains_caches_and_loads_like_any_model(cache: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = subject_path(QUICK, progress=False)
    assert path == cache / f"subject-{subject_hash(QUICK)}"
    assert {"config.json", "model.safetensors", "subject.json", "tokenizer.json"} <= {p.name for p in path.iterdir()}
    assert os.listdir(cache) == [path.name]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    assert model.config.tie_word_embeddings and model.config.vocab_size == len(tokenizer)
    card = load_card(path)
    rows = stories(QUICK.held_out_stories, QUICK.seed, subject.HELD_OUT_START)
    again = measure(model, tokenizer, rows)
    assert card.config == QUICK
    assert (again.accuracy, again.by_kind) == (card.report.accuracy, card.report.by_kind)
    assert card.report.num_positions == sum(len(row.fact_positions) for row in rows)
    assert [row.site for row in card.sites] == ["embed", "resid_post.0", "resid_post.1"]


def test_second_call_does_not_train(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = subject_path(QUICK, progress=False)
    before = {path.name: path.stat().st_mtime_ns for path in first.iterdir()}

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(subject, "train_subject", refuse)
    assert subject_path(QUICK, progress=False) == first
    assert {path.name: path.stat().st_mtime_ns for path in first.iterdir()} == before


def test_same_seed_same_weights_and_the_callers_rng_is_left_alone(cache: Path) -> None:
    torch.manual_seed(5)
    first = subject.train_subject(QUICK, progress=False)[0].state_dict()
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), drawn)
    second = subject.train_subject(QUICK, progress=False)[0].state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = subject.train_subject(replace(QUICK, seed=1), progress=False)[0].state_dict()
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_another_config_or_world_is_another_subject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert subject_hash(QUICK) == subject_hash(replace(QUICK))
    assert len({subject_hash(replace(QUICK, seed=seed)) for seed in range(3)}) == 3
    before = subject_hash(QUICK)
    here = Path(subject.__file__).parent
    for name in subject.WORLD_FILES:
        (tmp_path / name).write_bytes((here / name).read_bytes())
    monkeypatch.setattr(subject, "__file__", str(tmp_path / "subject.py"))
    assert subject_hash(QUICK) == before
    (tmp_path / "grammar.py").write_text("another world")
    assert subject_hash(QUICK) != before


def test_too_low_accuracy_raises_and_caches_nothing(cache: Path) -> None:
    with pytest.raises(RuntimeError, match=r"below the 95% it must reach; nothing was cached"):
        subject_path(replace(QUICK, min_accuracy=0.95), progress=False)
    assert not cache.exists()


def test_the_process_that_comes_second_takes_what_is_there(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process ends while this one trains: its folder stays, ours is thrown away."""
    other = subject.train_subject

    def slow(config: SubjectConfig, *, progress: bool):
        made = other(config, progress=progress)
        folder = cache_folder(config)
        folder.mkdir(parents=True)
        (folder / "subject.json").write_text(json.dumps("theirs"))
        return made

    monkeypatch.setattr(subject, "train_subject", slow)
    path = subject_path(QUICK, progress=False)
    assert json.loads((path / "subject.json").read_text()) == "theirs"
    assert os.listdir(cache) == [path.name]


def test_a_killed_training_leaves_nothing_under_the_final_name(tmp_path: Path) -> None:
    """Killed while it writes: the worst moment. What is left is never taken for a frozen model."""
    code = (
        "import sys, time\n"
        "from consistency_lens.demo import subject\n"
        "from tests.demo.test_subject import QUICK\n"
        "from transformers import PreTrainedTokenizerFast\n"
        "def hang(self, folder): print('writing', flush=True); time.sleep(100)\n"
        "PreTrainedTokenizerFast.save_pretrained = hang\n"
        "subject.subject_path(QUICK, progress=False)\n"
    )
    environment = os.environ | {"HF_HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert any(line.strip() == "writing" for line in iter(process.stdout.readline, "")), "DeepSpeed greets on stdout"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    left = list((tmp_path / "consistency_lens").iterdir())
    assert [path.name for path in left if path.name.startswith("subject-")] == []
    assert len(left) == 1 and left[0].name.startswith(".making-")


def test_batches_follow_the_curriculum_and_never_meet_the_held_out() -> None:
    tokenizer = build_tokenizer()
    batches = list(training_batches(QUICK, tokenizer))
    assert len(batches) == QUICK.steps
    lengths = [float(batch["attention_mask"].sum(1).float().mean()) for batch in batches]
    assert max(lengths[:2]) < min(lengths[4:])
    for batch in batches:
        last = batch["attention_mask"].sum(1) - 1
        assert (batch["input_ids"].gather(1, last[:, None]) == tokenizer.eos_token_id).all()
        assert set(batch["weight"].unique().tolist()) <= {0.0, 1.0, QUICK.fact_weight}
        assert (batch["weight"] == QUICK.fact_weight).any()


def test_learning_rate_warms_up_and_comes_down() -> None:
    config = replace(QUICK, steps=100, warmup_steps=10)
    factors = [learning_rate_factor(step, config) for step in range(101)]
    assert factors[0] == pytest.approx(0.1) and max(factors) == factors[9] == factors[10] == 1.0
    assert factors[10:] == sorted(factors[10:], reverse=True) and factors[100] == pytest.approx(0.05)


@pytest.mark.slow
def test_the_real_subject_knows_its_stories(subject_folder: Path) -> None:
    from consistency_lens.demo.probe import DEMO_SITE

    card = load_card(subject_folder)
    assert card.report.accuracy >= 0.95
    sites = {row.site: row for row in card.sites}
    assert sites[DEMO_SITE].accuracy >= 0.9
    assert int(DEMO_SITE.split(".")[1]) < card.config.num_layers - 1
    assert sites["embed"].accuracy < 0.3
    for row in card.sites:
        assert row.shuffled < 0.2 and row.early < 0.2
