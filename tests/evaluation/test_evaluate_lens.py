"""Lenses whose quality is known get the numbers that the formulas, written out, give."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from extracting import extract_to, random_texts
from fake_lenses import SITE, Nonsense, VectorLens
from tiny import shared_lm, tiny_lm
from torch import Tensor

from consistency_lens import objectives
from consistency_lens.activations import Activations
from consistency_lens.errors import BadInput
from consistency_lens.evaluation import HeldOut, Report, VectorReport, evaluate
from consistency_lens.frozen import Edit, FrozenLM
from consistency_lens.frozen.loading.provenance import ProvenanceMismatch


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Activations:
    folder = tmp_path_factory.mktemp("rows") / "acts"
    texts = random_texts(60, shortest=12, longest=40)
    return extract_to(folder, texts, positions_per_document=4, continuation_length=3, test_fraction=0.4)


def lens_of(rows: Activations, share: float = 1.0) -> VectorLens:
    return VectorLens(shared_lm("llama"), rows.mean(SITE), share)


def judged(rows: Activations, lens: VectorLens, **settings: Any) -> Report:
    held_out = HeldOut(**{"horizon": 3, "batch_size": 16} | settings)
    return evaluate(lens, shared_lm("llama"), rows, VectorReport(), held_out, progress=False)


@cache
def _whole_pass(lm: FrozenLM, ids: tuple[int, ...], vector: tuple[float, ...] | None, position: int) -> Tensor:
    edits = [] if vector is None else [Edit(SITE, torch.tensor(vector), position)]
    return lm.logits({"input_ids": torch.tensor([ids])}, edits)[0]


def slow_numbers(rows: Activations, lens: VectorLens, horizon: int) -> dict[str, float]:
    """Row by row, whole passes, plain arithmetic."""
    lm, mean = shared_lm("llama"), rows.mean(SITE)
    kl: dict[str, list[float]] = {"lens": [], "mean": []}
    far: dict[str, list[float]] = {"lens": [], "mean": []}
    top1, errors, spreads, cosines = [], [], [], []
    for row in rows.splits["test"]:
        vector = torch.tensor(row[SITE])
        position = len(row["input_ids"]) - 1
        ids = tuple([*row["input_ids"], *row["continuation_ids"][:horizon]])
        restored = lens.compress({"activations": {SITE: vector[None]}}).vectors[0]
        clean = _whole_pass(lm, ids, None, position)
        for name, value in (("lens", restored), ("mean", mean)):
            edited = _whole_pass(lm, ids, tuple(value.tolist()), position)
            p, q = clean[position:].log_softmax(-1), edited[position:].log_softmax(-1)
            per_column = (p.exp() * (p - q)).sum(-1)
            kl[name].append(float(per_column[0]))
            far[name].append(float(per_column.mean()))
            if name == "lens":
                top1.append(float(p[0].argmax() == q[0].argmax()))
        errors.append(float((vector - restored).square().sum()))
        spreads.append(float((vector - mean).square().sum()))
        cosines.append(float(objectives.cosine_of(restored[None], vector[None])))
    count = len(top1)
    return {
        "kl": sum(kl["lens"]) / count,
        "kl_recovered": 1 - sum(kl["lens"]) / sum(kl["mean"]),
        "kl_horizon": sum(far["lens"]) / count,
        "kl_horizon_recovered": 1 - sum(far["lens"]) / sum(far["mean"]),
        "top1": sum(top1) / count,
        "fve": 1 - sum(errors) / sum(spreads),
        "cosine": sum(cosines) / count,
    }


@torch.no_grad()
def test_numbers_are_the_formulas_written_out(rows: Activations) -> None:
    lens = lens_of(rows, 0.6)
    report, slow = judged(rows, lens), slow_numbers(rows, lens, 3)
    assert report.data["rows"] == len(rows.splits["test"])
    for name, value in slow.items():
        assert report.number(name).value == pytest.approx(value, abs=2e-4), name
    assert 0.1 < slow["kl_recovered"] < 0.95  # neither end, where wrong formulas agree


def test_a_perfect_lens_is_perfect_and_self_is_exactly_nothing(rows: Activations) -> None:
    report = judged(rows, lens_of(rows))
    for name in (
        "kl_recovered",
        "kl_horizon_recovered",
        "kl_after_recovered",
        "top1",
        "fve",
        "fve_nrm",
        "loss_recovered",
    ):
        assert report.number(name).value == pytest.approx(1, abs=1e-4), name
    for name in ("kl", "kl_horizon", "kl_after"):
        assert report.number(name, "self").value == 0
    assert "self is exactly 0" in " ".join(report.remarks)


def test_the_mean_scores_zero_and_noise_harms(rows: Activations) -> None:
    report = judged(rows, lens_of(rows, 0.0))
    assert report.number("kl_recovered").value == pytest.approx(0, abs=1e-6)
    assert report.number("fve").value == pytest.approx(0, abs=1e-6)
    worse = judged(rows, Nonsense(shared_lm("llama"), rows.mean(SITE)))
    assert worse.number("kl_recovered").high < 0


def test_positions_hold_all_rows(rows: Activations) -> None:
    report = judged(rows, lens_of(rows, 0.5))
    assert sum(row["rows"] for row in report.by_position) == report.data["rows"]
    harm = sum(row["rows"] * row["numbers"]["lens"]["kl"].value for row in report.by_position)
    assert harm / report.data["rows"] == pytest.approx(report.number("kl").value)


def test_the_same_seed_gives_the_same_report(rows: Activations) -> None:
    lens = lens_of(rows, 0.7)
    first, again, other = (judged(rows, lens, max_rows=30, seed=seed) for seed in (0, 0, 1))
    assert first.parts == again.parts != other.parts
    assert first.data["rows"] == 30


def test_a_horizon_beyond_the_end_of_documents_is_measured_as_far_as_it_goes(tmp_path: Path) -> None:
    texts = random_texts(30, shortest=8, longest=9)
    ends = extract_to(tmp_path / "acts", texts, positions_per_document=2, continuation_length=8, test_fraction=0.4)
    report = judged(ends, lens_of(ends, 0.5), horizon=8)
    assert report.number("kl_horizon").value > 0
    assert max(len(row["continuation_ids"]) for row in ends.splits["test"]) < 8


def test_without_a_horizon_the_rest_is_there(rows: Activations) -> None:
    report = judged(rows, lens_of(rows, 0.5), horizon=0)
    assert "kl_recovered" in report.parts["all"].numbers["lens"]
    assert not [name for name in report.parts["all"].numbers["lens"] if "horizon" in name or "after" in name]
    assert not [name for name in report.definitions if "horizon" in name or "after" in name]


def test_a_subject_that_is_not_itself_twice_stops_everything(rows: Activations) -> None:
    restless = tiny_lm("llama", attention_dropout=0.5)
    restless.model.train()
    with pytest.raises(RuntimeError, match="The swap is not exact"):
        evaluate(lens_of(rows), restless, rows, VectorReport(), HeldOut(horizon=3), progress=False)


def test_what_does_not_belong_together_is_refused(rows: Activations) -> None:
    lens = lens_of(rows)
    with pytest.raises(ProvenanceMismatch, match="the lens"):
        evaluate(lens, tiny_lm("llama", initializer_range=0.3), rows, VectorReport(), progress=False)
    with pytest.raises(BadInput, match="Use one of train") as caught:
        judged(rows, lens, split="tset")
    assert caught.value.field == "split"
    with pytest.raises(BadInput, match="Use 0 to 3") as caught:
        judged(rows, lens, horizon=4)
    assert caught.value.field == "horizon"
    for settings, why in (({"max_rows": 0}, "Use 1"), ({"max_rows": -3}, "Use 1"), ({"batch_size": 1}, "a partner")):
        with pytest.raises(BadInput, match=why):
            judged(rows, lens, **settings)


def test_the_lens_is_left_in_the_mode_it_was_in(rows: Activations) -> None:
    lens = lens_of(rows)
    lens.train()
    judged(rows, lens, max_rows=16)
    assert lens.training
