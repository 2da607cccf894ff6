"""Contexts, labels and direct effects of features, against slow twins, planted features and damaged files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import shared_lm, tiny_lm
from transcoders import small_lens

from consistency_lens.errors import BadInput
from consistency_lens.sparse.configuration import CONTEXTS
from consistency_lens.sparse.features.contexts import FeatureContexts
from consistency_lens.sparse.features.describing import describe_features, in_words
from consistency_lens.sparse.features.gathering import Gathered, Layer, gather
from consistency_lens.sparse.features.keeping import ABSENT, Active, Kept, Stretch, drawn
from consistency_lens.sparse.features.labelling import Label, labels_of, of_others
from consistency_lens.sparse.features.logit_effect import effects, written_by
from consistency_lens.sparse.modeling import CrosslayerTranscoder
from consistency_lens.sparse.training.data import Collator


def documents(count: int = 12, seed: int = 0, shortest: int = 4, longest: int = 12) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    found = []
    for number in range(count):
        length = int(torch.randint(shortest, longest, (1,), generator=generator))
        ids = torch.randint(4, 90, (length,), generator=generator)
        found.append({"doc_id": torch.tensor(number), "input_ids": ids})
    return found


def batches(rows: list[dict[str, torch.Tensor]], size: int) -> list[dict[str, torch.Tensor]]:
    return [Collator(0).padded(rows[i : i + size]) for i in range(0, len(rows), size)]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), keep=st.integers(1, 4), size=st.integers(1, 9))
def test_what_is_kept_are_the_largest_of_all_whatever_the_batches(seed: int, keep: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 6, 9)
    parts = [
        (Stretch(rng.integers(4, 40, n), np.full(n, d), np.arange(n)), rng.integers(0, 3, (n, 5)).astype(float))
        for d, n in enumerate(lengths)
    ]
    kept = Kept(5, keep, 2, 1)
    order = rng.permutation(len(parts))
    for start in range(0, len(order), size):
        chosen = [parts[i] for i in order[start : start + size]]
        whole = Stretch(
            *(np.concatenate(x) for x in zip(*((s.ids, s.documents, s.positions) for s, _ in chosen), strict=True))
        )
        values = np.concatenate([v for _, v in chosen])
        tokens, features = values.nonzero()
        kept.see(whole, Active(tokens, features, values[tokens, features]), values[tokens, features])
    for feature in range(5):
        every = [(-v[p, feature], d, p) for d, (_, v) in enumerate(parts) for p in range(len(v)) if v[p, feature]]
        expected = sorted(every)[:keep]
        assert kept.there[feature].sum() == len(expected)
        for slot, (value, document, position) in enumerate(expected):
            stretch, values = parts[document]
            assert kept.keys[feature, slot] == -value
            assert (kept.documents[feature, slot], kept.positions[feature, slot]) == (document, position)
            for column, place in enumerate(range(position - 2, position + 2)):
                inside = 0 <= place < len(values)
                assert kept.ids[feature, slot, column] == (stretch.ids[place] if inside else ABSENT)
                assert kept.values[feature, slot, column] == (values[place, feature] if inside else 0)


def test_draws_are_uniform_and_a_function_of_the_place() -> None:
    n = 20_000
    stretch = Stretch(np.zeros(n, int), np.arange(n) // 100, np.arange(n) % 100)
    active = Active(np.arange(n), np.zeros(n, int), np.ones(n))
    keys = drawn(3, stretch, active) / 2**53
    assert abs(keys.mean() - 0.5) < 0.01 and abs((keys < 0.1).mean() - 0.1) < 0.01 and len(set(keys)) == n
    assert abs(np.corrcoef(keys[:-1], keys[1:])[0, 1]) < 0.03
    some = np.arange(0, n, 7)
    part = Stretch(stretch.ids[some], stretch.documents[some], stretch.positions[some])
    again = drawn(3, part, Active(np.arange(len(some)), np.zeros(len(some), int), np.ones(len(some))))
    assert np.array_equal(again / 2**53, keys[some])
    assert not np.array_equal(drawn(4, stretch, active) / 2**53, keys)


@pytest.mark.parametrize("settings", [{}, {"nonlinearity": "topk", "k": 3}])
def test_one_pass_counts_what_the_lens_does_document_by_document(settings: dict[str, Any]) -> None:
    lens, rows = small_lens(**settings), documents()
    found, other = gather(lens, batches(rows, 5)), gather(lens, batches(rows[::-1], 3))
    assert found.documents == 12 and found.tokens == sum(len(r["input_ids"]) - 1 for r in rows) == other.tokens
    counts = sum(lens.compress({"input_ids": r["input_ids"][None]}).tokens.counts() for r in rows)
    for number, (layer, again) in enumerate(zip(found.found, other.found, strict=True)):
        assert np.array_equal(layer.count, counts[number].numpy()) and np.array_equal(layer.count, again.count)
        for name in ("top", "drawn"):
            mine, its = vars(layer)[name], vars(again)[name]
            assert np.array_equal(mine.there, its.there) and np.array_equal(mine.ids, its.ids)
            np.testing.assert_allclose(mine.values, its.values, rtol=1e-4, atol=1e-5)
    assert found.occurrences[1].sum() == found.occurrences[0].sum() == found.tokens
    assert found.occurrences[2].sum() == found.tokens - found.documents
    assert np.array_equal(found.occurrences, other.occurrences)


def planted(place: int, tokens: tuple[int, ...], noise: float = 0.0, seed: int = 0) -> tuple[Any, Gathered]:
    """A layer whose feature 0 is active where one of these tokens stands before (0), at (1) or behind (2) a token."""
    rng, n = np.random.default_rng(seed), 4000
    ids = rng.integers(10, 40, n)
    stretch = Stretch(ids, np.zeros(n, int), np.arange(n))
    moved = np.roll(ids, 1 - place)
    on = np.isin(moved, tokens) ^ (rng.random(n) < noise)
    on[[0, -1]] = False
    layer = Layer(2)
    where = on.nonzero()[0]
    features = np.concatenate([np.zeros(len(where), int), np.ones(100, int)])
    tokens_of = np.concatenate([where, rng.permutation(np.arange(1, n - 1))[:100]])
    layer.see(0, stretch, Active(tokens_of, features, np.ones(len(features), np.float32)))
    occurrences = np.stack([np.bincount(np.roll(ids, shift)[1:-1], minlength=64) for shift in (1, 0, -1)])
    return layer, Gathered([layer], occurrences, n, 1)


@pytest.mark.parametrize(("place", "word"), [(0, "after"), (1, "at"), (2, "before")])
@pytest.mark.parametrize("tokens", [(12,), (12, 25, 31)])
def test_a_planted_feature_gets_its_label(place: int, word: str, tokens: tuple[int, ...]) -> None:
    layer, gathered = planted(place, tokens)
    label, of_chance = labels_of(layer, gathered.occurrences)
    assert (label.place, sorted(label.ids)) == (word, sorted(tokens))
    assert label.precision == 1.0 and label.recall > 0.95 and label.score > 0.97
    assert of_chance.score < 0.2
    noisy = labels_of(*(lambda a, b: (a, b.occurrences))(*planted(place, tokens, noise=0.02)))[0]
    assert noisy.place == word and set(noisy.ids) & set(tokens) and noisy.score < label.score
    assert of_others(layer, gathered.occurrences, [label, of_chance]).max() < 0.2
    assert in_words(label, lambda token: f" w{token}").startswith("“w" if place == 1 else f"{word} “w")
    assert in_words(Label("at", (), 0.0, 0.0), str) == ""


@pytest.mark.parametrize("case", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("settings", [{}, {"tied_decoder": True}, {"crosslayer": False}])
def test_direct_effects_are_those_of_norm_and_head_written_out(case: str, settings: dict[str, Any]) -> None:
    capped = {"final_logit_softcapping": None} if case == "gemma2" else {}
    frozen = tiny_lm(case, **capped)
    lens = CrosslayerTranscoder.from_subject(frozen, features=6, **settings)
    base, head = frozen.model.base_model, frozen.model.get_output_embeddings().weight
    norm = dict(base.named_children())["ln_f" if case == "gpt2" else "norm"]
    gain = norm.weight + (1 if case == "gemma2" else 0)
    for index in (0, 2):
        written = written_by(lens, index, torch.arange(6)).sum(1)
        if case == "gpt2":
            written = written - written.mean(1, keepdim=True)
        expected = (written * gain) @ head.T
        expected = expected - expected.mean(1, keepdim=True)
        ((lengths, found),) = effects(lens, index)
        assert lengths.shape == (6, lens.config.reach(index)) and bool((lengths > 0).all())
        # The size of the stream is one number for all features.
        ratio = float(expected.norm() / found.norm())
        torch.testing.assert_close(found * ratio, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_a_table_goes_with_its_lens_and_comes_back(tmp_path: Path) -> None:
    lens = small_lens()
    with pytest.raises(BadInput, match="nothing is known yet"):
        lens.features("w1 w2", contexts=2)
    assert lens.features("w1 w2")[0]["labels"] == [""] * len(lens.features("w1 w2")[0]["features"])
    known = describe_features(lens, batches(documents(60), 8), "validation")
    assert lens.contexts is known and len(known.table) == 4 * 24 and known.about["split"] == "validation"
    lens.save_pretrained(tmp_path / "lens")
    again = CrosslayerTranscoder.from_pretrained(tmp_path / "lens", shared_lm("llama"))
    assert again.contexts is not None and again.contexts.table.equals(known.table)
    row = again.features("w1 w2 w3", top=3, contexts=2)[-1]
    layer, feature, _ = row["features"][0]
    about = known.of(layer, feature)
    assert row["labels"][0] == known.label(layer, feature) == about["label"]
    assert row["contexts"][0] == about["contexts"][:2]
    context = about["contexts"][0]
    assert context["values"][context["at"]] == pytest.approx(context["value"]) == pytest.approx(about["max"])
    assert len(context["tokens"]) == len(context["values"]) and len(about["promotes"]) == 10
    assert about["sample"][0] <= about["max"] and len(about["sample"]) == min(48, about["active"])
    best, worst = known.ranked(3)
    assert len(best) == 3 and len({each["label"] for each in best}) == 3
    assert best[-1]["score"] >= worst[0]["score"]
    with torch.no_grad():  # other weights: what was known is no longer true
        again.layers_in_order[0].b_enc[0] += 1
    again.save_pretrained(tmp_path / "changed")
    assert not (tmp_path / "changed" / CONTEXTS).exists()


def test_a_table_of_another_lens_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    lens = small_lens()
    describe_features(lens, batches(documents(), 8))
    lens.save_pretrained(tmp_path)
    whole = (tmp_path / CONTEXTS).read_bytes()

    def refused(why: str) -> None:
        with pytest.raises(BadInput, match=why):
            FeatureContexts.load(tmp_path, lens.config, lens.fingerprint())

    (tmp_path / CONTEXTS).write_bytes(whole[:100])
    refused("cannot be read")
    (tmp_path / CONTEXTS).write_bytes(whole)
    table = parquet.read_table(tmp_path / CONTEXTS)
    parquet.write_table(table.replace_schema_metadata(None), tmp_path / CONTEXTS)
    refused("expected a mapping")
    parquet.write_table(table.drop_columns(["label"]), tmp_path / CONTEXTS)
    refused("no table of this lens's features")
    parquet.write_table(table.slice(1), tmp_path / CONTEXTS)
    refused("no table of this lens's features")
    parquet.write_table(table.take(list(range(len(table)))[::-1]), tmp_path / CONTEXTS)
    refused("in another order")
    (tmp_path / CONTEXTS).write_bytes(whole)
    with torch.no_grad():
        lens.layers_in_order[0].b_enc[0] += 1
    refused("other weights")
    (tmp_path / CONTEXTS).unlink()
    assert FeatureContexts.load(tmp_path, lens.config, lens.fingerprint()) is None


def test_the_questions_that_cannot_be_answered() -> None:
    lens = small_lens()
    with pytest.raises(BadInput, match="at least two tokens"):
        describe_features(lens, [])
    known = describe_features(lens, batches(documents(), 8))
    for layer, feature, field in ((9, 0, "layer"), (0, 24, "feature")):
        with pytest.raises(BadInput) as caught:
            known.of(layer, feature)
        assert caught.value.field == field
