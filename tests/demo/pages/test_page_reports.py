"""From stories on pages to a report that asks for what the seal of a page holds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from extracting import extraction_of

from consistency_lens import ConsistencyLens, evaluate_lens
from consistency_lens.activations import Activations, Corpus, CorpusArguments
from consistency_lens.auto import world_of
from consistency_lens.cli import opening
from consistency_lens.cli.parsing.arguments import SubjectArguments
from consistency_lens.demo.judging.judge import FACT_COLUMNS
from consistency_lens.demo.pages import keeper
from consistency_lens.demo.pages.judging import PageQuestions
from consistency_lens.demo.pages.keeper import STATE_SITE, KeeperConfig, paged_config
from consistency_lens.demo.pages.model import PagedLlamaForCausalLM
from consistency_lens.demo.pages.writing import PAGE, SEAL, page_dataset
from consistency_lens.demo.tokenizer import build_tokenizer
from consistency_lens.frozen import FrozenLM


@pytest.fixture(scope="module")
def lm() -> FrozenLM:
    """The model of pages as it is before training, and smaller."""
    torch.manual_seed(0)
    config = KeeperConfig(hidden_size=32, intermediate_size=48, num_heads=4, initializer_range=0.3)
    tokenizer = build_tokenizer()
    return FrozenLM(PagedLlamaForCausalLM(paged_config(config, tokenizer)), tokenizer, "pages-0000000000000000")


@pytest.fixture(scope="module")
def rows(lm: FrozenLM, tmp_path_factory: pytest.TempPathFactory) -> Activations:
    corpus = Corpus(page_dataset(40), CorpusArguments(keep_columns=list(FACT_COLUMNS)), "pages")
    given = {"min_position": SEAL, "position_step": PAGE, "continuation_length": 16}
    extraction = extraction_of(corpus, tmp_path_factory.mktemp("pages") / "rows", lm, sites=[STATE_SITE], **given)
    extraction.open()
    return Activations.load(extraction.run(lm))


def test_each_page_that_is_turned_gives_a_row(lm: FrozenLM, rows: Activations) -> None:
    found = [row for split in rows.splits.values() for row in split]
    assert len(found) == 40 and {row["position"] for row in found} == {SEAL}
    assert {len(row["continuation_ids"]) for row in found} == {16} and rows.metadata["rules"]["position_step"] == PAGE
    alone = lm.read({"input_ids": torch.tensor([found[7]["input_ids"]])}, STATE_SITE)[STATE_SITE][0, -1]
    assert torch.allclose(torch.tensor(found[7][STATE_SITE]), alone, atol=1e-4)


def test_the_report_of_a_lens_asks_behind_the_page(lm: FrozenLM, rows: Activations) -> None:
    lens = ConsistencyLens.from_subject(lm, STATE_SITE, trainable="projections")
    lens.subject = lm
    world = world_of(lens)
    given = world.options(lens, rows, "test")
    assert isinstance(given["questions"], PageQuestions)
    # Untrained, it holds nothing that a probe could read: all that was stated is asked for, and what it says is taken
    # for the answer.
    given["questions"] = PageQuestions()
    report = evaluate_lens(lens, lm, rows, max_rows=12, horizon=2, batch_size=12, progress=False, **given)
    assert {"held_recall", "held_precision"} <= set(report.definitions)
    assert world.completed(report, lens, rows, given, False) is report


def test_its_names_on_the_command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(keeper, "keeper_path", lambda config=None, *, progress=True: tmp_path)
    subject = SubjectArguments(model_name_or_path="demo:state")
    assert opening.model_path(subject) == str(tmp_path)
    assert opening.config_of(subject).page_length == PAGE, "the plan needs no training"
