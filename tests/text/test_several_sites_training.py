"""A training of a lens of several sites: which site each row is of, what is charged for it, and the report by site."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lens_runs import (
    SITES,
    arguments,
    first_batch,
    lens_of_layers,
    of_one_site,
    rows_of_layers,
    stirred,
)
from tiny import shared_lm, tiny_lm

from consistency_lens.activations import Activations
from consistency_lens.base.comparing.rows import rows_for_people
from consistency_lens.errors import BadInput
from consistency_lens.evaluation import HeldOut
from consistency_lens.evaluation.about import LENS
from consistency_lens.evaluation.report import Report
from consistency_lens.evaluation.run import evaluate
from consistency_lens.frozen import Edit, FrozenModels
from consistency_lens.objectives import kl_of
from consistency_lens.text.modeling import ConsistencyLens
from consistency_lens.text.options import LayerOptions
from consistency_lens.text.report.text_report import TextReport
from consistency_lens.text.running import TextRun
from consistency_lens.text.trainer import ConsistencyLensTrainer

ROWS = 12


def trainer_of(folder: Path, lens: ConsistencyLens | None = None, **changes: Any) -> ConsistencyLensTrainer:
    args = arguments(folder, **({"per_device_train_batch_size": ROWS} | changes))
    lm = tiny_lm() if lens is None else shared_lm("llama")
    return ConsistencyLensTrainer(lens or lens_of_layers(lm), args, rows_of_layers(), frozen=lm)


def test_sites_are_dealt_anew_in_each_step(tmp_path: Path) -> None:
    """As a function of seed and step, with each row's partner at its own site, also of a row's second text."""
    trainer = trainer_of(tmp_path, stirred(lens_of_layers(shared_lm("llama"))))
    batch, met = first_batch(trainer), []
    for step in (0, 1, 0):
        trainer.state.global_step = step
        placed = trainer.placed(batch)
        rows = trainer.rows(placed)
        assert torch.equal(rows.at, placed["site"].repeat_interleave(2))
        assert torch.equal(rows.at[rows.pair], rows.at)
        documents = batch["doc_id"].repeat_interleave(2)
        assert (documents[rows.pair] != documents).all()
        for row in range(len(rows.at)):
            expected = batch["activations"][SITES[rows.at[row]]][row // 2].float()
            assert torch.equal(rows.original[row], expected)
        met.append(placed["site"])
    assert torch.equal(met[0], met[2]) and not torch.equal(met[0], met[1])
    assert met[0].bincount().tolist() == [ROWS // 3] * 3


def test_each_row_is_charged_at_its_own_site(tmp_path: Path) -> None:
    """The terms of a mixed batch equal whole passes, row by row, each at one site."""
    lens = stirred(lens_of_layers(shared_lm("llama")))
    trainer = trainer_of(tmp_path, lens, delta="stopgrad", kl_horizon=2)
    batch = trainer.placed(first_batch(trainer))
    trainer.state.global_step = trainer.args.num_warm_steps
    rows = trainer.rows(batch)
    with torch.no_grad():
        out = lens(rows.original, at=rows.at, **trainer.manner(rows))
        found = trainer.terms_of_function(rows, out) | trainer.terms_of_vectors(out.restored, rows.original, rows.at)
    error = (rows.original - out.restored)[rows.pair]
    statistics, lm = rows_of_layers().statistics, shared_lm("llama")
    for row in range(len(rows.at)):
        site, own = SITES[rows.at[row]], row // 2
        squared = (out.restored[row] - rows.original[row]).square().sum() / statistics[f"{site}.variance"].sum()
        torch.testing.assert_close(found["mse"][row], squared.float(), rtol=1e-5, atol=1e-6)
        context = batch["input_ids"][own][batch["attention_mask"][own].bool()]
        following = batch["continuation_ids"][own, :2][batch["continuation_mask"][own, :2].bool()]
        ids = {"input_ids": torch.cat([context, following])[None]}
        edit = Edit(site, out.restored[row] + error[row], positions=len(context) - 1)
        clean, edited = (lm.logits(ids, edits)[:, len(context) - 1 :] for edits in ([], [edit]))
        torch.testing.assert_close(found["kl"][row], kl_of(clean, edited)[0].mean(), rtol=1e-3, atol=1e-5)


def test_a_resumed_training_deals_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    whole = trainer_of(tmp_path / "whole", **saving)
    whole.train()
    again = trainer_of(tmp_path / "again", **saving)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    ours, theirs = (dict(each.lens.named_parameters()) for each in (whole, again))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    weight = whole.lens.decoder.map.weight
    assert all(not torch.equal(weight[site], torch.eye(32)) for site in range(3)), "a site has learned nothing"


def test_what_is_watched_and_shown_has_rows_of_every_site(tmp_path: Path) -> None:
    lens = stirred(lens_of_layers(shared_lm("llama")))
    trainer = trainer_of(tmp_path, lens)
    batches = [*trainer.batches(16)]
    assert {site for batch in batches for site in batch["site"].tolist()} == {0, 1, 2}
    assert {"kl_recovered", "fve"} <= trainer.measure().keys()
    rows = rows_for_people(lens, FrozenModels.of(shared_lm("llama")), batches, step=0)
    of_batches = [SITES[site] for batch in batches for site in batch["site"].tolist()]
    assert [row["site"] for row in rows] == of_batches and all(abs(row["cosine"]) <= 1 for row in rows)


@pytest.fixture(scope="module")
def report() -> Report:
    return reported(stirred(lens_of_layers(shared_lm("llama"))), rows_of_layers())


def reported(lens: ConsistencyLens, rows: Activations) -> Report:
    held_out = HeldOut("test", max_rows=12, batch_size=12, horizon=2)
    return evaluate(lens, shared_lm("llama"), rows, TextReport(brief=True), held_out, progress=False)


def test_the_report_has_each_number_for_each_site(report: Report) -> None:
    assert report.data["rows"] == 3 * 12 and report.lens["sites"] == SITES
    assert {"all", *SITES} <= report.parts.keys()
    everything = report.parts["all"].numbers
    for site in SITES:
        numbers = report.parts[site].numbers
        assert numbers.keys() == everything.keys() and numbers["self"]["kl"].value == 0
        assert all(numbers[code].keys() == everything[code].keys() for code in numbers)
    kl = [report.parts[site].numbers[LENS]["kl"].value for site in SITES]
    assert everything[LENS]["kl"].value == pytest.approx(sum(kl) / 3) and len(set(kl)) == 3


@pytest.mark.parametrize("number", [0, 2])
def test_the_numbers_of_a_site_are_those_of_a_lens_of_that_site(report: Report, number: int) -> None:
    one = of_one_site(stirred(lens_of_layers(shared_lm("llama"))), number)
    alone, part = reported(one, rows_of_layers()).parts["all"].numbers, report.parts[SITES[number]].numbers
    for code in (LENS, "mean", "zero", "resample", "context_tail", "table"):
        for name, value in alone[code].items():
            assert part[code][name].value == pytest.approx(value.value, rel=1e-4, abs=1e-5), (code, name)


def test_an_encoder_trained_on_tails_stands_beside_it_at_each_site(report: Report) -> None:
    """A rival, and an earlier moment, read several sites as the lens does."""
    lens, rival = (stirred(lens_of_layers(shared_lm("llama")), seed=seed) for seed in (0, 1))
    held_out, family = HeldOut("test", 12, 12, 2), TextReport({"context_tail_trained": rival}, rival, brief=True)
    found = evaluate(lens, shared_lm("llama"), rows_of_layers(), family, held_out, progress=False)
    for site in SITES:
        assert "kl_recovered" in found.parts[site].numbers["context_tail_trained"]
        ours, theirs = (each.parts[site].numbers[LENS]["kl"].value for each in (found, report))
        assert ours == pytest.approx(theirs)


def test_a_run_reads_all_sites_of_its_rows_unless_one_is_named() -> None:
    values: dict[str, Any] = {"site": None}
    assert TextRun(values).sites(SITES) == SITES
    assert TextRun({"site": SITES[1]}).sites(SITES) == [SITES[1]]
    for named, offered in (("embed", SITES), (None, ["embed", *SITES])):
        with pytest.raises(BadInput, match=r"^site='embed'"):
            TextRun({"site": named}).sites(offered)


def test_layers_are_refused_before_a_model_is_loaded() -> None:
    assert LayerOptions().layers is None
    TextRun({"layers": "all"}).require_lens({"sites": SITES})
    with pytest.raises(BadInput, match=r"^layers='9'"):
        TextRun({"layers": "9"}).require_lens({"sites": SITES})


@pytest.mark.slow
def test_it_learns_at_each_of_its_sites(subject_folder: Path, tmp_path: Path) -> None:
    """A short training on the offline model: at each site it is far above the mean, and above another row's words."""
    from extracting import extract_to

    from consistency_lens.demo.stories import stories
    from consistency_lens.frozen import FrozenLM

    frozen = FrozenLM.from_pretrained(subject_folder)
    sites = ["resid_post.0", "resid_post.1", "resid_post.2"]
    texts = [story.text for story in stories(600, 0, 0)]
    rows = extract_to(
        tmp_path / "rows", texts, frozen, sites=sites, min_position=16, continuation_length=8, positions_per_document=4
    )
    lens = ConsistencyLens.from_subject(frozen, sites, rows, code_length=8)
    args = arguments(
        tmp_path / "run",
        max_steps=300,
        warm_steps=280,
        warm_learning_rate=2e-3,
        warm_sure=0.3,
        warm_vague="something",
        per_device_train_batch_size=24,
        logging_steps=50,
    )
    ConsistencyLensTrainer(lens, args, rows, frozen=frozen).train()
    found = evaluate(lens, frozen, rows, TextReport(brief=True), HeldOut("test", 128, 64, horizon=4), progress=False)
    for site in sites:
        numbers = found.parts[site].numbers
        ours, shuffled = (numbers[code]["kl_recovered"] for code in (LENS, "shuffled_activation"))
        assert ours.low > 0.2 and ours.low > shuffled.high, (site, ours, shuffled)
