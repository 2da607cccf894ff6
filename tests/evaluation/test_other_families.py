"""Families of which evaluation knows nothing: edits computed inside the pass, and soft tokens without any vector."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tiny import shared_lm
from torch import Tensor

from consistency_lens.base.comparing import WholePass
from consistency_lens.base.configuration import LensConfig
from consistency_lens.base.modeling import Code, LensModel
from consistency_lens.base.saving.lens_card import TrainingRecord, facts_of
from consistency_lens.card import model_card
from consistency_lens.evaluation import Control, FamilyReport, HeldOut, Report, Seen, evaluate
from consistency_lens.evaluation.bootstrap import Records
from consistency_lens.evaluation.examples import examples
from consistency_lens.evaluation.presenting.card import with_report
from consistency_lens.evaluation.quantities import WHOLE_PASS, Quantity
from consistency_lens.evaluation.vectors import at_every_token
from consistency_lens.frozen import Edit, FrozenLM, FrozenModels

READS, WRITES = ("resid_pre.1", "resid_pre.2", "resid_pre.3"), ("mlp_out.1", "mlp_out.2")
PASSAGE, QUESTION = 6, 5  # tokens


@dataclass(frozen=True)
class Tensors(Code):
    """A tensor with a row per row."""

    values: Tensor

    def take(self, rows: Tensor) -> Tensors:
        return Tensors(self.values[rows])

    def __len__(self) -> int:
        return len(self.values)


class OtherConfig(LensConfig):
    model_type = "other"
    medium = "features"

    @property
    def code_in_words(self) -> str:
        return "a few numbers"


class OtherLens(LensModel):
    config_class = OtherConfig

    def __init__(self, frozen: FrozenLM, share: float = 1.0, sites: Sequence[str] = ("embed",)) -> None:
        provenance = frozen.provenance(*sites).to_dict()
        super().__init__(OtherConfig(sites=list(sites), hidden_size=32, provenance=provenance))
        self.subject, self.share = frozen, share

    def describe(self, code: Any) -> list[dict[str, Any]]:
        return [{"explanation": f"{float(row.norm()):.1f}"} for row in code.values]


class Replacing(OtherLens):
    """Reads three sites at all positions, and writes at two others what the pass itself would write there, times
    `share`."""

    def compress(self, batch: Mapping[str, Any], seed: int | None = None) -> Tensors:
        return Tensors(batch["input_ids"].float())

    def restore(self, code: Any, batch: Mapping[str, Any]) -> list[Edit]:
        def computed(site: str, below: str) -> Edit:
            return Edit(site, lambda read: read[site] * self.share + 0.0 * read[below], None, reads=(below, site))

        return [computed(site, below) for site, below in zip(WRITES, READS, strict=False)]

    def comparison(self, models: FrozenModels, batch: Mapping[str, Any], horizon: int = 0) -> WholePass:
        return WholePass.of(models.only, batch)


class Soft(OtherLens):
    """Puts a passage in front of a question as its own embeddings, times `share`: it restores no vector that was
    read."""

    def compress(self, batch: Mapping[str, Any], seed: int | None = None) -> Tensors:
        assert self.subject is not None
        passage = {"input_ids": batch["input_ids"][:, :PASSAGE]}
        return Tensors(self.subject.read(passage, "embed")["embed"] * self.share)

    def restore(self, code: Any, batch: Mapping[str, Any]) -> list[Edit]:
        return [Edit("embed", code.values, mode="prepend")]

    def comparison(self, models: FrozenModels, batch: Mapping[str, Any], horizon: int = 0) -> WholePass:
        ids = batch["input_ids"]
        there = torch.arange(QUESTION).expand(len(ids), -1)
        return WholePass.of(models.only, batch, there + PASSAGE, {"input_ids": ids[:, PASSAGE:]}, there)


class OtherReport(FamilyReport):
    """Documents are lists of tokens; a batch is some of them."""

    def begin(self, lens: LensModel, models: FrozenModels, data: Any, held_out: HeldOut) -> None:
        self.means = {site: torch.full((32,), 0.1) for site in WRITES}

    def batches(self, lens: LensModel, models: FrozenModels, data: Any, held_out: HeldOut) -> list[dict[str, Tensor]]:
        parts = data.split(held_out.batch_size)
        firsts = range(0, len(data), held_out.batch_size)
        return [
            {"doc_id": torch.arange(first, first + len(part)), "input_ids": part}
            for first, part in zip(firsts, parts, strict=True)
        ]

    def described(self, data: Any, held_out: HeldOut) -> dict[str, Any]:
        return {"corpus": "made up", "split": held_out.split, "seed": held_out.seed}


class ReplacingReport(OtherReport):
    quantities = WHOLE_PASS | {"size": Quantity("mean size of what is written")}
    traits: Mapping[str, str] = {"active": "features that are active"}

    def edits(self, seen: Seen) -> Iterator[Control]:
        yield from at_every_token(WRITES, self.means, seen.seed)

    def baseline(self, seen: Seen) -> list[Edit]:
        return next(list(each.edits) for each in self.edits(seen) if each.name == "mean")

    def measure(self, seen: Seen, edits: Sequence[Edit]) -> dict[str, Tensor]:
        return {"size": torch.full((len(seen.code),), float(len(edits)))}

    def describe(self, seen: Seen, records: Records) -> None:
        records.add("traits", {"active": (seen.code.values > 0).sum(1)})

    def subsets(self, seen: Seen) -> dict[str, Tensor]:
        return {"even": seen.batch["doc_id"] % 2 == 0}


class SoftReport(OtherReport):
    """A score of 0 is the question alone."""

    def controls(self, seen: Seen) -> Iterator[Control]:
        yield Control("mean", "edit", "no passage", [])
        others = seen.code.take(torch.arange(len(seen.code)).roll(1))
        yield Control("shuffled", "codes", "another passage", seen.lens.restore(others, seen.batch))

    def baseline(self, seen: Seen) -> list[Edit]:
        return []


def texts(count: int = 12, length: int = PASSAGE + QUESTION) -> Tensor:
    return torch.randint(4, 96, (count, length), generator=torch.Generator().manual_seed(0))


def report_of(lens: LensModel, family: FamilyReport) -> Report:
    return evaluate(lens, shared_lm("llama"), texts(), family, HeldOut(batch_size=5, horizon=0), progress=False)


def test_edits_that_are_computed_at_sites_that_are_not_read() -> None:
    lm = shared_lm("llama")
    perfect, half, none = (report_of(Replacing(lm, x, READS), ReplacingReport()) for x in (1.0, 0.9, 0.0))
    assert perfect.number("kl").value == perfect.number("kl", "self").value == 0
    assert perfect.number("kl_recovered").value == perfect.number("top1").value == 1
    assert none.number("kl").value == none.number("kl", "zero").value > half.number("kl").value > 0
    assert half.number("kl_recovered", "mean").value == 0 and half.number("loss_recovered", "zero").value == 0
    assert half.number("size").value == 2 and half.traits["active"].value == PASSAGE + QUESTION
    assert half.parts["even"].rows == 6 and half.data["rows"] == half.data["documents"] == 12
    assert set(half.groups["edit"]) == {"self", "mean", "zero", "noise"} and half.by_position == []
    assert half.lens["sites"] == list(READS) and "self is exactly 0 on all 12 rows." in half.remarks


@torch.no_grad()
def test_their_kl_is_that_of_whole_passes_written_out() -> None:
    lm, lens = shared_lm("llama"), Replacing(shared_lm("llama"), 0.5, READS)
    slow = []
    for ids in texts():
        batch = {"input_ids": ids[None]}
        own = lm.read(batch, list(WRITES))
        first = Edit(WRITES[0], own[WRITES[0]] * 0.5, None)
        # The second site reads what the first edit changed.
        halved = [first, Edit(WRITES[1], lambda read: read[WRITES[1]] * 0.5, None, reads=(WRITES[1],))]
        p, q = (lm.logits(batch, edits)[0].log_softmax(-1) for edits in ([], halved))
        slow.append(float((p.exp() * (p - q)).sum(-1).mean()))
    assert report_of(lens, ReplacingReport()).number("kl").value == pytest.approx(sum(slow) / len(slow), abs=1e-5)


def test_soft_tokens_restore_no_vectors() -> None:
    lm = shared_lm("llama")
    report, nothing = (report_of(Soft(lm, share), SoftReport()) for share in (1.0, 0.5))
    assert report.number("kl_recovered").value == pytest.approx(1, abs=1e-5)
    assert report.number("kl_recovered", "mean").value == 0
    assert nothing.number("kl_recovered").value < report.number("kl_recovered").value
    assert report.parts["all"].differences["shuffled"]["kl_recovered"].low > 0
    assert "its best control, shuffled, is" in report.verdict and report.about.good
    assert "loss_recovered" not in report.parts["all"].numbers["lens"], "the clean pass reads another batch"


@pytest.mark.parametrize(
    ("lens", "family"),
    [(Replacing(shared_lm("llama"), 0.9, READS), ReplacingReport), (Soft(shared_lm("llama"), 0.5), SoftReport)],
    ids=["replacing", "soft"],
)
def test_their_reports_are_saved_shown_and_put_on_cards(
    lens: OtherLens, family: type[OtherReport], tmp_path: Path
) -> None:
    report = report_of(lens, family())
    report.save(tmp_path)
    assert Report.load(tmp_path) == report
    text, console = (tmp_path / "report.md").read_text(), Console(width=90, record=True, file=io.StringIO())
    report.show(console)
    for code in (code for codes in report.groups.values() for code in codes):
        assert f"`{code}`" in text and code in console.export_text(clear=False)
    assert {path.name for path in tmp_path.glob("*.png")} == {"controls.png"}
    rows = examples(lens, family(), texts(), "test")
    assert len(rows) == 12 and all((row.of_mean is None) == isinstance(lens, Soft) for row in rows)
    card = model_card(with_report(facts_of(lens.config, TrainingRecord(name="me/other")), report, rows))
    assert "features-lens" in card and "## Examples" in card
    assert f"{report.number('kl_recovered')}" in card.replace("\N{NO-BREAK SPACE}", " ")
    of_frame = card.partition("## Citation")[0].lower().replace("explaining", "")
    assert "words" not in of_frame and "explanation" not in of_frame
