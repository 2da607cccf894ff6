"""`benchmarks/state_sceptic.py`: what it asks, what it does to words, and that it runs to its table on a tiny lens."""

from __future__ import annotations

import importlib
import json
import random
from pathlib import Path
from types import ModuleType

import pytest
import torch
from extracting import extraction_of

from consistency_lens import ConsistencyLens
from consistency_lens.activations import Activations, Corpus, CorpusArguments
from consistency_lens.demo.judging.judge import FACT_COLUMNS
from consistency_lens.demo.pages.keeper import STATE_SITE, KeeperConfig, paged_config
from consistency_lens.demo.pages.model import PagedLlamaForCausalLM
from consistency_lens.demo.pages.writing import PAGE, SEAL, page_dataset
from consistency_lens.demo.tokenizer import build_tokenizer
from consistency_lens.demo.words import FACT_WORDS, KINDS
from consistency_lens.frozen import FrozenLM

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def sceptic(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("state_sceptic")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model, rows and two moments of a lens, all untrained."""
    place = tmp_path_factory.mktemp("pages")
    torch.manual_seed(0)
    config = KeeperConfig(hidden_size=32, intermediate_size=48, num_heads=4, initializer_range=0.3)
    tokenizer = build_tokenizer()
    PagedLlamaForCausalLM(paged_config(config, tokenizer)).save_pretrained(place / "model")
    tokenizer.save_pretrained(place / "model")
    lm = FrozenLM.from_pretrained(place / "model")
    corpus = Corpus(page_dataset(80), CorpusArguments(keep_columns=list(FACT_COLUMNS)), "pages")
    given = {"min_position": SEAL, "position_step": PAGE, "continuation_length": 16, "test_fraction": 0.4}
    extraction = extraction_of(corpus, place / "rows", lm, sites=[STATE_SITE], **given)
    extraction.open()
    extraction.run(lm)
    for name in ("lens", "warm_lens"):
        ConsistencyLens.from_subject(lm, STATE_SITE, trainable="projections").save_pretrained(place / "run" / name)
    return place


def test_it_asks_for_what_is_stated_and_never_comes(sceptic: ModuleType, folder: Path) -> None:
    lm = FrozenLM.from_pretrained(folder / "model")
    subject = sceptic.Subject(lm.model, lm.tokenizer, STATE_SITE)
    rows = sceptic.Rows.of(Activations.load(folder / "rows").splits["test"], STATE_SITE, 50, seed=0)
    asked = sceptic.questions(subject, rows, 0, every=True)
    assert 10 < len(asked.facts) <= len(rows.contexts)
    for number, (kind, value), question in zip(asked.numbers, asked.facts, asked.rows.following, strict=True):
        assert any((f["kind"], f["value"]) == (kind, value) for f in rows.facts[number])
        coming = {FACT_WORDS.get(word) for word in lm.tokenizer.decode(rows.following[number]).split()}
        assert (kind, value) not in coming and value not in lm.tokenizer.decode(question).split()
    clean = [torch.zeros(0)] * len(asked.facts)
    for part, found in subject.predict(asked.rows, None, ahead=sceptic.LONGEST):
        for i, each in zip(part, found, strict=True):
            clean[i] = each[-1]
    others = [KINDS_OTHER[kind][0] for kind, _ in asked.facts]
    own = sceptic.answered(subject, asked, clean, asked.rows.vectors, others)
    assert abs(own["kl"]).max() < 1e-4, "what stands there already changes nothing"
    elsewhere = sceptic.answered(subject, asked, clean, asked.rows.vectors.roll(1, 0), others)
    assert elsewhere["kl"].mean() > 10 * abs(own["kl"]).max()
    known = sceptic.questions(subject, rows, 0)
    assert set(known.numbers) < set(asked.numbers), "an untrained model answers few"


KINDS_OTHER = {kind: list(values) for kind, values in KINDS.items()}


def test_what_is_done_to_the_words(sceptic: ModuleType) -> None:
    rows = sceptic.Rows([[1]], [[]], [0], torch.zeros(1, 2), [[]], torch.zeros(1).numpy())
    asked = sceptic.Asked(rows, [("animal", "cat")], [0])
    text = ["kitten", "blue", "zoe", "."]
    found, (other,) = sceptic.changed([text], asked, seed=0, length=8)
    assert other in KINDS["animal"] and other != "cat"
    assert sorted(found["all shuffled"][0].split()) == sorted(text)
    shuffled = found["shuffled"][0].split()
    assert sorted(shuffled) == sorted(text) and shuffled[-1] == "."
    assert found["synonyms"] == ["cat navy zoe ."], "a name has no other wording"
    assert found["left out"] == ["blue zoe ."] and found["another value"] == [f"{other} blue zoe ."]
    assert found["alone"] == ["cat ."] and found["negated"] == ["not cat ."]
    assert "cat" in found["sentence"][0].split() and found["sentence"][0].endswith(" .")
    short, _ = sceptic.changed([text], asked, seed=0, length=3)
    assert short["sentence"][0].split() == found["sentence"][0].split()[-3:], "cut in front"
    absent, (other,) = sceptic.changed([["blue", "."]], asked, seed=0, length=8)
    assert absent["another value"] == [f"{other} blue ."]
    whole, before = sceptic.sentence("the child wrote [number] names , and it was {hero} .", "zoe", random.Random(0))
    assert whole == f"{before} zoe ." and "[" not in whole


def test_it_runs_to_its_table(
    sceptic: ModuleType,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ["--run", str(folder / "run"), "--activations", str(folder / "rows"), "--rows", "20", "--show", "2"]
    given += ["--subject", str(folder / "model")]
    monkeypatch.setattr("sys.argv", ["state_sceptic.py", *given, "--every", "--json", str(tmp_path / "found.json")])
    sceptic.main()
    printed = capsys.readouterr().out
    assert "says the other" in printed and printed.count("    -> ") == 2
    results = json.loads((tmp_path / "found.json").read_text())["results"]
    codes = [row["in A's place"] for row in results if "in A's place" in row]
    assert codes[0] == "lens" and {"warm start", "table", "mean", *sceptic.CHANGES} < set(codes)
    mean = next(row for row in results if row.get("in A's place") == "mean")
    assert mean["recovered"].startswith("0.000")
