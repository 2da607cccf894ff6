"""The objective against the equation written out, and each way of training changes what it should and nothing else."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lens_runs import SITE, WARM, AtStep, changed, copies, first_batch, gradients, stirred, tiny_lens, trainer_of
from tiny import tiny_lm
from torch import Tensor

from consistency_lens.errors import BadInput
from consistency_lens.frozen import Edit, FrozenLM
from consistency_lens.objectives import kl_of, nll_of
from consistency_lens.text.parts.generation import Noise
from consistency_lens.text.readability import MISQUOTED
from consistency_lens.text.starting.warm_start import Doubt
from consistency_lens.text.trainer import ConsistencyLensTrainer

CLOSE = {"rtol": 2e-4, "atol": 2e-5}
WAYS: list[Any] = [("full", "policy"), ("lora", "parallel"), ("projections", "sequential")]
WAYS += [
    pytest.param(trainable, estimator, marks=pytest.mark.slow)
    for trainable in ("full", "lora", "projections")
    for estimator in ("policy", "parallel", "sequential")
    if (trainable, estimator) not in WAYS
]
BEHIND = {"warm_start": "none"}  # functional from the first step


def logs(trainer: ConsistencyLensTrainer) -> list[dict[str, float]]:
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def stirred_trainer(folder: Path, **changes: Any) -> ConsistencyLensTrainer:
    frozen = tiny_lm()
    return trainer_of(folder, frozen, stirred(tiny_lens(frozen)), **(BEHIND | changes))


class ByHand:
    """One functional step from the model's parts alone, row by row and rollout by rollout, in whole passes."""

    def __init__(self, trainer: ConsistencyLensTrainer, delta: str) -> None:
        lens, frozen, batch = trainer.lens, trainer.frozen, first_batch(trainer)
        self.times, self.batch, count = trainer.rollouts, batch, len(batch["pair"])
        original = batch["activations"][SITE].float()
        # Rollout g of row i stands at i * G + g, under noise of its own.
        where = [i for i in range(count) for _ in range(self.times)]
        self.original = original[where]
        self.words = lens.decoder.write(self.original, trainer.noise)
        with torch.no_grad():
            restored = lens.encoder(self.words)
            logits = lens.decoder.score(self.original, self.words)
        self.restored = restored
        partner = [int(batch["pair"][i]) * self.times + g for i in range(count) for g in range(self.times)]
        self.partner = partner
        error = 0.0 if delta == "off" else self.original[partner] - restored[partner]
        contexts = {name: batch[name][where] for name in ("input_ids", "attention_mask")}
        self.contexts = contexts
        clean = frozen.logits(contexts, keep=1)[:, 0].log_softmax(-1)
        edited = frozen.logits(contexts, Edit(SITE, restored + error), keep=1)[:, 0].log_softmax(-1)
        self.kl = torch.nn.functional.kl_div(edited, clean, log_target=True, reduction="none").sum(-1)
        rows = trainer.activations.splits["train"].with_format("numpy", columns=[SITE])[:][SITE]
        spread = torch.from_numpy(rows).double().var(0, unbiased=False).sum()
        self.mse = (restored - self.original).square().sum(-1) / spread
        self.distributions = torch.distributions.Categorical(logits=logits)
        ids, mask = self.words.written(lens.config.stop_id)
        self.log_probability = (self.distributions.log_prob(ids) * mask).sum(1)


def losses(trainer: ConsistencyLensTrainer) -> dict[str, float]:
    trainer.compute_loss(trainer.lens, first_batch(trainer))
    seen: dict[str, float] = {"loss": 0.0}
    trainer.log(seen)
    return {name.removeprefix("loss/"): value for name, value in seen.items() if name.startswith("loss/")}


@pytest.mark.parametrize("delta", ["off", "stopgrad", "grad"])
@pytest.mark.parametrize("estimator", ["policy", "parallel", "sequential"])
def test_terms_are_those_of_the_equation(tmp_path: Path, delta: str, estimator: str) -> None:
    given = {"kl_weight": "0.7", "mse_weight": "0.3"}
    trainer = stirred_trainer(tmp_path, delta=delta, estimator=estimator, rollouts=3, **given)
    hand = ByHand(trainer, delta)
    found = losses(trainer)
    assert found["kl"] == pytest.approx(float(hand.kl.mean()), rel=1e-3)
    assert found["mse"] == pytest.approx(float(hand.mse.mean()), rel=1e-3)
    if estimator == "policy":
        harm = 0.7 * hand.kl + 0.3 * hand.mse
        reward = -harm.view(-1, 3)
        others = [[reward[i, [h for h in range(3) if h != g]].mean() for g in range(3)] for i in range(len(reward))]
        advantage = (reward - torch.tensor(others)).flatten()
        expected = -(advantage * hand.log_probability).mean()
        assert found["policy"] == pytest.approx(float(expected), rel=2e-3, abs=1e-4)


def test_a_rollout_is_paired_with_the_same_rollout_of_another_document(tmp_path: Path) -> None:
    trainer = stirred_trainer(tmp_path, rollouts=3)
    batch = first_batch(trainer)
    rows = trainer.rows(batch)
    assert len(rows.pair) == 18 and len(rows.comparison.clean) == 6, "what the model says untouched is there once"
    for n in range(18):
        i, g = divmod(n, 3)
        assert torch.equal(rows.original[n], batch["activations"][SITE][i].float())
        assert int(rows.pair[n]) == int(batch["pair"][i]) * 3 + g
        assert batch["doc_id"][int(rows.pair[n]) // 3] != batch["doc_id"][i]
    clean = trainer.frozen.logits(batch, keep=1)
    torch.testing.assert_close(rows.comparison.clean, clean, **CLOSE)
    edited = rows.comparison.edited(Edit(SITE, torch.randn(18, 32, generator=torch.Generator().manual_seed(0))))
    by_row = [kl_of(clean[n // 3], edited[n : n + 1, 0]) for n in range(18)]
    torch.testing.assert_close(rows.comparison.kl(edited), torch.cat(by_row))
    # Each under noise of its own.
    written = trainer.lens.decoder.write(rows.original, trainer.noise).ids
    assert len(written.unique(dim=0)) > 6


def test_the_error_elsewhere_carries_a_gradient_only_if_asked(tmp_path: Path) -> None:
    for delta, carries in (("stopgrad", False), ("grad", True)):
        trainer = stirred_trainer(tmp_path, delta=delta)
        rows = trainer.rows(first_batch(trainer))
        restored = torch.randn(rows.original.shape, requires_grad=True)
        error = trainer.error_elsewhere(rows, restored)
        assert isinstance(error, Tensor) and error.requires_grad is carries
        expected = torch.stack([rows.original[p] - restored[p] for p in rows.pair.tolist()])
        torch.testing.assert_close(error, expected)


def test_the_horizon_counts_the_true_continuation(tmp_path: Path) -> None:
    trainer = stirred_trainer(tmp_path, kl_horizon=3, delta="off", estimator="parallel")
    hand = ByHand(trainer, "off")
    batch = hand.batch
    longer = {
        "input_ids": torch.cat([batch["input_ids"], batch["continuation_ids"][:, :3]], 1),
        "attention_mask": torch.cat([batch["attention_mask"], batch["continuation_mask"][:, :3]], 1),
    }
    edit = Edit(SITE, hand.restored, batch["input_ids"].shape[1] - 1)
    p, q = (trainer.frozen.logits(longer, edits, keep=4).log_softmax(-1) for edits in ([], edit))
    counts = torch.nn.functional.pad(batch["continuation_mask"][:, :3], (1, 0), value=1)
    expected = ((p.exp() * (p - q)).sum(-1) * counts).sum(1) / counts.sum(1)
    assert losses(trainer)["kl"] == pytest.approx(float(expected.mean()), rel=1e-3)


@pytest.mark.parametrize(
    ("estimator", "warm_start", "quoted"),
    [("policy", "none", 0), ("policy", "onward", 1), ("policy", "span", 2), ("parallel", "none", 0)],
)
def test_text_is_judged_behind_the_prompt_and_in_its_place(
    tmp_path: Path, estimator: str, warm_start: str, quoted: int
) -> None:
    """Its place is that of the tokens which it quotes."""
    weight = "0.1" if estimator == "policy" else "0"  # no gradient leads from there to Gumbel's choice of words
    changes: dict[str, Any] = {"lm_weight": "0.1", "ground_weight": weight, "warm_start": warm_start, "warm_steps": 0}
    changes |= {"warm_vague": "w9", "warm_sure": 0.3}
    trainer = stirred_trainer(tmp_path, estimator=estimator, **changes)
    hand, frozen, config = ByHand(trainer, "stopgrad"), trainer.frozen, trainer.lens.config
    prompt = [i for i in config.prompt_ids if i != config.placeholder_id]
    lm, ground = [], []
    for n, (ids, length) in enumerate(zip(hand.words.ids.tolist(), hand.words.lengths.tolist(), strict=True)):
        text = ids[:length]
        whole = hand.contexts["input_ids"][n][hand.contexts["attention_mask"][n].bool()].tolist()
        own = whole[: len(whole) - quoted]
        for before, into in ((prompt, lm), (own, ground)):
            said = frozen.logits({"input_ids": torch.tensor([[*before, *text]])})[0].log_softmax(-1)
            nll = [-float(said[len(before) - 1 + t, token]) for t, token in enumerate(text)]
            if into is ground:
                general = [token == trainer.texts.doubt.word for token in text]
                nll = [min(n, -math.log(0.3)) if g else n for n, g in zip(nll, general, strict=True)]
                for t, (token, read) in enumerate(zip(text, whole[len(whole) - quoted :], strict=False)):
                    nll[t] = 0.0 if token == read else nll[t] + (0.0 if general[t] else MISQUOTED)
            into.append(sum(nll) / length)
    found = losses(trainer)
    assert found["lm"] == pytest.approx(sum(lm) / len(lm), rel=1e-3)
    if estimator == "policy":
        assert found["ground"] == pytest.approx(sum(ground) / len(ground), rel=1e-3)
    else:
        assert "ground" not in found


def test_readability_gives_gumbel_a_gradient_and_policy_a_reward(tmp_path: Path) -> None:
    """With no other term, straight-through Gumbel still moves the decoder."""
    alone = {"kl_weight": "0", "mse_weight": "0", "lm_weight": "1"}
    for estimator in ("parallel", "sequential", "policy"):
        trainer = stirred_trainer(tmp_path, estimator=estimator, **alone)
        trainer.compute_loss(trainer.lens, first_batch(trainer)).backward()
        found = gradients(trainer.lens.parts()["decoder"])
        assert max(float(g.abs().max()) for g in found.values()) > 1e-5, estimator
        assert all(not g.any() for g in gradients(trainer.lens.parts()["encoder"]).values())


def test_grounding_is_refused_where_it_would_teach_nothing(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"ground_weight.*estimator=policy"):
        stirred_trainer(tmp_path, ground_weight="0.1", estimator="parallel")
    for warm_start in ("context", "span"):
        with pytest.raises(BadInput, match=r"ground_weight.*warm_vague"):
            stirred_trainer(tmp_path, ground_weight="0.1", warm_start=warm_start, warm_sure=0.3, warm_steps=5)
    stirred_trainer(tmp_path, ground_weight="0.1", warm_start="onward", warm_sure=0.3, warm_steps=5)


@pytest.mark.parametrize("estimator", ["policy", "parallel"])
def test_vectors_alone_do_not_ask_the_subject(tmp_path: Path, estimator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = stirred_trainer(tmp_path, kl_weight="0", estimator=estimator)

    def asked(*args: Any) -> None:
        raise AssertionError("the frozen model was asked")

    monkeypatch.setattr(FrozenLM, "prefix", asked)
    found = losses(trainer)
    assert found["mse"] > 0 and "kl" not in found
    trainer = stirred_trainer(tmp_path, kl_weight="linear(0, 1, 10)", estimator=estimator)
    with pytest.raises(AssertionError, match="was asked"):
        losses(trainer)


# The two stages.


def test_the_warm_start_teaches_to_write_and_to_read_the_starting_text(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, warm_steps=40, max_steps=40, warm_sure=0.0, warm_learning_rate=3e-3)
    batch = first_batch(trainer)
    words = trainer.texts.of(batch, 1).words
    assert words.ids.shape == (6, 5) and int(words.lengths.min()) >= 1
    trainer.train()
    first, last = logs(trainer)[0], logs(trainer)[-1]
    assert last["loss/start"] < 0.9 * first["loss/start"] and last["loss/mse"] < 0.9 * first["loss/mse"]
    assert first["loss"] == pytest.approx(first["loss/start"] + first["loss/mse"], rel=1e-3)


def test_stages_have_learning_rates_of_their_own(tmp_path: Path) -> None:
    given = {"warm_learning_rate": 1e-2, "learning_rate": 1e-3, "encoder_learning_rate": 1e-4}
    trainer = trainer_of(tmp_path, warm_steps=3, max_steps=8, lr_scheduler_type="constant", **given)
    rates: dict[str, list[float]] = {}

    def look() -> None:
        for group in trainer.optimizer.param_groups:
            rates.setdefault(group["part"], []).append(group["lr"])

    for step in range(8):
        trainer.add_callback(AtStep(step, look))
    trainer.train()
    per_step = {part: values[:: len(values) // 8] for part, values in rates.items()}
    for part, peak in (("decoder", 1e-3), ("encoder", 1e-4), ("maps", 1e-3)):
        warm, behind = per_step[part][:3], per_step[part][3:]
        assert behind == pytest.approx([peak] * 5)
        # The same for all parts, down from its peak.
        assert warm == sorted(warm, reverse=True) and max(warm) <= 1e-2 and warm == pytest.approx(per_step["maps"][:3])


@pytest.mark.parametrize(("trainable", "estimator"), WAYS)
def test_each_way_of_training_changes_what_it_should(tmp_path: Path, trainable: str, estimator: str) -> None:
    frozen = tiny_lm()
    lens = tiny_lens(frozen, trainable=trainable)
    delta = {"policy": "stopgrad", "parallel": "grad", "sequential": "off"}[estimator]
    trainer = trainer_of(tmp_path, frozen, lens, estimator=estimator, delta=delta, max_steps=WARM + 3)
    before, subject = copies(trainer.trainable), copies(dict(frozen.model.named_parameters()))
    behind: dict[str, Tensor] = {}
    trainer.add_callback(AtStep(WARM, lambda: behind.update(copies(trainer.trainable))))
    trainer.train()
    assert len(logs(trainer)) == WARM + 3
    assert all(math.isfinite(value) for entry in logs(trainer) for value in entry.values())
    assert all(bool(p.isfinite().all()) for p in trainer.trainable.values())
    for part in ("decoder", "encoder"):
        maps = {n: p for n, p in lens.parts()["maps"].items() if n.startswith(part)}
        own = lens.parts()[part]
        in_warm_start = {n for n in own if not torch.equal(before[n], behind[n])}
        later = changed(own, {n: behind[n] for n in own})
        assert bool(in_warm_start) is bool(later) is bool(own)
        assert changed(maps, {n: behind[n] for n in maps})
    own_names = {id(p) for p in trainer.trainable.values()}
    rest = {n: p for n, p in frozen.model.named_parameters() if id(p) not in own_names}
    assert not changed(rest, {n: subject[n] for n in rest})


def test_the_reference_is_the_decoder_as_the_warm_start_left_it(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, max_steps=WARM + 4, learning_rate=3e-2)
    left: dict[str, Tensor] = {}
    trainer.add_callback(AtStep(WARM, lambda: left.update(copies(trainer.trainable))))
    trainer.train()
    found = [entry["loss/reference"] for entry in logs(trainer) if "loss/reference" in entry]
    assert len(found) == 4 and found[0] == pytest.approx(0.0, abs=1e-6) and min(found[1:]) > 1e-4
    assert {n.split(".")[0] for n in trainer.reference} == {"decoder"}
    assert all(torch.equal(tensor, left[name]) for name, tensor in trainer.reference.items())


def test_without_a_warm_start_the_reference_is_the_decoder_as_the_run_found_it(tmp_path: Path) -> None:
    trainer = stirred_trainer(tmp_path, learning_rate=3e-2)
    before = copies(trainer.trainable)
    trainer.train()
    assert trainer.reference and all(torch.equal(tensor, before[n]) for n, tensor in trainer.reference.items())
    assert logs(trainer)[0]["loss/reference"] == pytest.approx(0.0, abs=1e-6)
    assert logs(trainer)[-1]["loss/reference"] > 1e-4


def test_what_the_decoder_would_have_to_guess_is_left_out_of_starting_texts(tmp_path: Path) -> None:
    """From the middle of the warm start on, by the decoder as it was then."""
    middle = {"warm_steps": 4, "max_steps": 4, "warm_guess_share": 0.5}
    trainer = trainer_of(tmp_path, warm_start="span", warm_sure=0.9, **middle)
    seen: dict[str, Tensor] = {}
    trainer.add_callback(AtStep(2, lambda: seen.update(copies(trainer.trainable))))
    trainer.train()
    assert all(torch.equal(tensor, seen[name]) for name, tensor in trainer.reference.items())
    batch = first_batch(trainer)
    whole = trainer.texts.of(batch, 1)
    kept = whole.supported(trainer.score_by_reference(batch["activations"][SITE].float(), whole.words), Doubt(0.9))
    assert bool((kept.words.lengths <= whole.words.lengths).all()) and int(kept.words.lengths.min()) >= 1
    assert int(kept.words.lengths.sum()) < int(whole.words.lengths.sum())


@pytest.mark.parametrize("vocabulary", [50_000, pytest.param(262_144, marks=pytest.mark.slow)])
@pytest.mark.parametrize("estimator", ["policy", "parallel", "sequential"])
def test_large_vocabularies(vocabulary: int, estimator: str) -> None:
    """All that asks for the decoder's logits: what is kept for the backward pass, and as wide as the vocabulary, is
    the logits alone, and what Gemma's cap on them keeps. With a graph through time each step's are kept, too."""
    frozen = tiny_lm("gemma2", vocab_size=vocabulary, hidden_size=16, intermediate_size=16, head_dim=4)
    lens = tiny_lens(frozen, trainable="lora")
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        given = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
        out = lens(given, noise=Noise(1), estimator=estimator)
        ids, mask = out.code.written(lens.config.stop_id)
        with torch.no_grad():
            before = lens.decoder.score(given, out.code)
        terms = [nll_of(out.logits, ids, mask), kl_of(out.logits, before, mask)]
    (out.restored.square().sum() + torch.stack(terms).sum()).backward()
    assert bool(out.restored.isfinite().all()) and int(out.code.ids.max()) < 96  # the tokenizer's own
    assert all(bool(g.isfinite().all()) for g in gradients(lens.parts()["decoder"]).values())
    wide = {t.untyped_storage().data_ptr() for t in kept if t.numel() >= 2 * 5 * vocabulary}
    known = {t.untyped_storage().data_ptr() for t in (lens.decoder.table, before)}
    assert len(wide - known) == (2 if estimator != "sequential" else 1)


def test_settings_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    for changes, named in (
        ({"estimator": "gumbel"}, "estimator='gumbel'"),
        ({"delta": "on"}, "delta='on'"),
        ({"rollouts": 1}, "rollouts=1"),
        ({"warm_vague": "nosuchword"}, r"warm_vague='nosuchword'.*one token"),
        ({"temperature": 0.0}, r"temperature=0\.0"),
        ({"kl_weight": "linear(1)"}, "kl_weight"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"kl_horizon": -1}, "kl_horizon"),
    ):
        with pytest.raises(BadInput, match=named):
            trainer_of(tmp_path, **changes)
