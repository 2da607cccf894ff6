"""Stories that no tuning saw: rows as an extraction would make them, and a report on them that joins the main one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from extracting import extraction_of

from consistency_lens import ConsistencyLens, Report, evaluate_lens
from consistency_lens.activations import Activations, Corpus, CorpusArguments
from consistency_lens.auto import world_of
from consistency_lens.demo.judging.beyond import BeyondJudge
from consistency_lens.demo.judging.fresh import ANYWHERE, FRESH, FRESH_START, Drawn, fresh_rows
from consistency_lens.demo.judging.judge import FACT_COLUMNS, FactJudge, reword_all
from consistency_lens.demo.judging.questions import FactQuestions
from consistency_lens.demo.judging.sentences import FactSentences
from consistency_lens.demo.stories import story, story_dataset
from consistency_lens.demo.subject import new_model
from consistency_lens.demo.tokenizer import build_tokenizer
from consistency_lens.demo.training import SubjectConfig
from consistency_lens.errors import BadInput
from consistency_lens.evaluation.report import with_parts
from consistency_lens.frozen import FrozenLM

SITE = "resid_post.2"


@pytest.fixture(scope="module")
def lm() -> FrozenLM:
    """The demo's model as it is before training, and smaller."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    config = SubjectConfig(hidden_size=32, intermediate_size=64, num_heads=4, initializer_range=0.3)
    return FrozenLM(new_model(config, tokenizer).eval(), tokenizer, "subject-0000000000000000")


@pytest.fixture(scope="module")
def rows(lm: FrozenLM, tmp_path_factory: pytest.TempPathFactory) -> Activations:
    corpus = Corpus(story_dataset(24), CorpusArguments(keep_columns=list(FACT_COLUMNS)), "stories")
    folder = tmp_path_factory.mktemp("stories") / "rows"
    extraction = extraction_of(corpus, folder, lm, sites=[SITE], test_fraction=0.3, min_position=16)
    extraction.open()
    return Activations.load(extraction.run(lm))


def test_rows_are_what_an_extraction_would_read(lm: FrozenLM, rows: Activations) -> None:
    found = fresh_rows(rows, lm, SITE, stories=5, seed=0)
    split = found.splits[FRESH]
    told = [story(0, FRESH_START + number) for number in range(5)]
    assert sum(not row[ANYWHERE] for row in split) == sum(len(one.fact_positions) for one in told)
    assert sum(row[ANYWHERE] for row in split) == 5 and set(split["doc_id"]) == {one.doc_id for one in told}
    assert not set(split["doc_id"]) & {i for name in ("train", "test") for i in rows.splits[name]["doc_id"]}
    for row in split:
        ids = torch.tensor([row["input_ids"]])
        assert len(row["input_ids"]) == row["position"] + 1 and row["continuation_ids"]
        assert torch.tensor(row[SITE]).allclose(lm.read({"input_ids": ids}, SITE)[SITE][0, -1], atol=1e-4)
        assert row[ANYWHERE] or any(spot["position"] == row["position"] for spot in row["fact_positions"])
    assert set(found.splits) == {*rows.splits, FRESH} and found.statistics is rows.statistics
    with pytest.raises(BadInput, match="2 or more"):
        fresh_rows(rows, lm, SITE, stories=1)


def test_a_report_on_them_joins_another_one(lm: FrozenLM, rows: Activations, tmp_path: Path) -> None:
    lens = ConsistencyLens.from_subject(lm, SITE, trainable="projections")
    lens.subject = lm
    world = {
        "judges": [FactJudge(), BeyondJudge()],
        "reword": reword_all,
        "sayings": [FactSentences()],
        "questions": FactQuestions(),
        "sure": 0.3,
        "vague": "something",
        "learned": {},
    }
    of = {"progress": False, "batch_size": 24}
    report = evaluate_lens(lens, lm, rows, max_rows=24, horizon=2, **of, **world)
    assert {"greedy", "own_continuation"} == set(report.groups["ahead"])
    assert {"table", "probes", "logit_lens"} == set(report.groups["two_tokens"])
    assert {"slot_1", "slot_8", "slot_3_dropped", "slots_2_3_exchanged"} <= set(report.groups["slots"])
    assert {"token_read", "next_read", "fell_back"} <= set(report.judged["probes"])
    assert "fact_recall" in report.judged["logit_lens"] or report.parts["fact_positions"].rows == 0
    assert {"reworded_changed", "reworded_in_front"} <= set(report.traits)
    assert list(world["learned"]) == [SITE]
    fresh = fresh_rows(rows, lm, SITE, stories=6)
    judges = [*world["judges"], Drawn()]
    given = {**world, "judges": judges, "brief": True}
    more = evaluate_lens(lens, lm, fresh, split=FRESH, horizon=0, **of, **given)
    assert more.parts[ANYWHERE].rows == 6 and "paraphrase" not in more.definitions
    assert more.parts["fact_positions"].rows == len(fresh.splits[FRESH]) - 6
    where = {"fresh": "a story that no tuning saw"}
    joined = with_parts(report, {"fresh": more.parts[ANYWHERE]}, where, {"lens, fresh": more.judged["lens"]})
    joined.save(tmp_path)
    again = Report.load(tmp_path)
    assert again.parts["fresh"].rows == 6 and again.parts["fresh"].numbers["paraphrase"] == {}
    assert again.parts["all"] == report.parts["all"] and again.number("kl", "self").value == 0
    assert "that no tuning saw" in (tmp_path / "report.md").read_text()


def test_a_lens_of_several_sites_is_judged_by_its_words_at_each(lm: FrozenLM, tmp_path: Path) -> None:
    """No probe stands beside them: a batch of the report holds the activations of one site alone."""
    sites = ["resid_post.1", SITE]
    corpus = Corpus(story_dataset(24), CorpusArguments(keep_columns=list(FACT_COLUMNS)), "stories")
    extraction = extraction_of(corpus, tmp_path / "rows", lm, sites=sites, test_fraction=0.3, min_position=16)
    extraction.open()
    rows = Activations.load(extraction.run(lm))
    lens = ConsistencyLens.from_subject(lm, sites, rows, code_length=3, trainable="projections")
    world = world_of(lens)
    given = world.options(lens, rows, "test") | {"brief": True}
    report = evaluate_lens(lens, lm, rows, max_rows=4, horizon=0, batch_size=4, progress=False, **given)
    report = world.completed(report, lens, rows, given, progress=False)
    assert {"all", *sites, "fresh", "fresh_facts"} <= report.parts.keys() and "fact_recall" in report.definitions
