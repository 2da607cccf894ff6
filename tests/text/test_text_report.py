"""The controls of a text lens, its judges, its rewording and its gains, with lenses whose quality is known."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from extracting import extract_to, random_texts
from fake_lenses import SITE, Nonsense, VectorLens
from lens_runs import stirred, tiny_lens, tiny_rows
from tiny import shared_lm
from torch import Tensor

from consistency_lens import evaluate_lens
from consistency_lens.activations import Activations
from consistency_lens.errors import BadInput
from consistency_lens.evaluation import HeldOut, Report, evaluate
from consistency_lens.evaluation.presenting.tables import tables_of
from consistency_lens.frozen import Edit
from consistency_lens.frozen.loading.provenance import ProvenanceMismatch
from consistency_lens.text.report import TextReport


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Activations:
    folder = tmp_path_factory.mktemp("rows") / "acts"
    texts = random_texts(60, shortest=12, longest=40)
    return extract_to(folder, texts, positions_per_document=4, continuation_length=3, test_fraction=0.4)


class EvenJudge:
    """Knows that even positions are special, and counts words."""

    name = "even"
    columns: Sequence[str] = ()
    definitions: Mapping[str, str] = {"words": "words per text", "even": "P is even"}

    def judge(
        self, explanations: Sequence[str], rows: Mapping[str, Sequence[Any]]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        words = torch.tensor([float(len(text.split())) for text in explanations])
        return {"words": (words, torch.ones_like(words))}

    def subsets(self, rows: Mapping[str, Sequence[Any]]) -> dict[str, Tensor]:
        return {"even": torch.tensor([position % 2 == 0 for position in rows["position"]])}


def lens_of(rows: Activations, share: float = 1.0, **rival_shares: float) -> VectorLens:
    return VectorLens(shared_lm("llama"), rows.mean(SITE), share, rival_shares)


def judged(rows: Activations, lens: VectorLens, **settings: Any) -> Report:
    report = TextReport(**settings)
    return evaluate(lens, shared_lm("llama"), rows, report, HeldOut(horizon=3, batch_size=16), progress=False)


def test_the_family_is_found_by_the_lens() -> None:
    lm, rows = shared_lm("llama"), tiny_rows()
    lens = stirred(tiny_lens(lm))
    of = {"horizon": 1, "batch_size": 16, "max_rows": 16, "progress": False}
    report = evaluate_lens(lens, lm, rows, before=lens, rivals={"fresh_encoder": lens}, **of)
    assert report.groups["read_anew"] == ["fresh_encoder"] and report.number("kl", "fresh_encoder") == report.number(
        "kl"
    )
    assert report.lens["family"] == "consistency_lens" and "paraphrase" in report.groups["tampered"]
    assert report.gains["kl"]["gain"].value == 0
    with pytest.raises(BadInput, match="no family is named 'lens'") as caught:
        evaluate_lens(lens_of(rows), lm, rows, **of)
    assert caught.value.field == "lens"


def test_the_verdict_of_a_lens_that_is_no_better_than_the_mean(rows: Activations) -> None:
    assert judged(rows, lens_of(rows, 0.0)).verdict.startswith("No better than the mean")
    worse = judged(rows, Nonsense(shared_lm("llama"), rows.mean(SITE)))
    assert worse.verdict.startswith("Worse than the mean") and not worse.about.good


def test_a_shuffled_code_is_the_code_of_the_partner(rows: Activations) -> None:
    report = judged(rows, lens_of(rows))
    # This lens is perfect, so its partner's code is the partner's activation: what `resample` writes.
    for name in ("kl", "kl_horizon", "top1", "cosine"):
        assert report.number(name, "shuffled_activation").value == pytest.approx(
            report.number(name, "resample").value, abs=1e-5
        )
    assert report.number("loss_recovered", "resample").value == pytest.approx(0, abs=1e-9)


def test_controls_of_a_family_are_judged_whatever_their_names(rows: Activations) -> None:
    report = judged(rows, lens_of(rows, 0.9, context_tail=0.5, own_continuation=0.95, some_other_text=0.2))
    assert report.groups["text"] == ["shuffled_activation", "context_tail", "some_other_text"]
    assert report.groups["ahead"] == ["own_continuation"]
    assert report.groups["tampered"] == ["truncation_1", "token_shuffle"]
    scores = [report.number("kl_recovered", code).value for code in ("own_continuation", "lens", "context_tail")]
    assert scores == sorted(scores, reverse=True)
    # Â - μ is .9 of A - μ, or .5: from the mean all have the direction of A.
    assert report.number("cosine_centred").value == pytest.approx(1, abs=1e-5)
    assert report.number("cosine").value < 0.9999
    assert report.number("cosine_centred", "context_tail").value == pytest.approx(1, abs=1e-5)
    apart = report.parts["all"].differences["context_tail"]["kl_recovered"]
    assert apart.value == pytest.approx(scores[1] - scores[2]) and apart.low > 0
    assert report.retention["token_shuffle"]["kl_recovered"].value == pytest.approx(1)
    assert report.retention["truncation_1"]["kl_recovered"].value < 1
    assert set(report.definitions) >= {*report.parts["all"].numbers, *report.parts["all"].numbers["lens"]}


def test_a_rival_lens_reads_the_tail(rows: Activations) -> None:
    class Better(VectorLens):
        def restore(self, code: Any, batch: Mapping[str, Any]) -> list[Edit]:
            return [Edit(SITE, batch["activations"][SITE].float())]

    better = Better(shared_lm("llama"), rows.mean(SITE))
    report = judged(rows, lens_of(rows, 0.9, context_tail=0.5), rivals={"context_tail_trained": better})
    assert report.number("kl_recovered", "context_tail_trained").value == pytest.approx(1, abs=1e-4)
    assert report.about.alarm and "context_tail_trained" in report.verdict
    with pytest.raises(BadInput, match="no context_tail") as caught:
        judged(rows, lens_of(rows), rivals={"context_tail_trained": better})
    assert caught.value.field == "rivals"


def test_rewording_goes_through_the_texts(rows: Activations) -> None:
    seen: list[str] = []

    def reword(texts: Sequence[str], seed: int) -> list[str]:
        seen.extend(texts)
        return [text[::-1] for text in texts]

    report = judged(rows, lens_of(rows, 0.9), reword=reword)
    assert len(seen) == report.data["rows"] and all(text.endswith(" w1") for text in seen)
    assert report.number("kl_recovered", "reworded").value == pytest.approx(0, abs=1e-6)  # it rereads the mean
    assert report.verdict.startswith("The codes carry")


def test_judges_and_their_subsets(rows: Activations) -> None:
    report = judged(rows, lens_of(rows, 0.9, context_tail=0.3), judges=[EvenJudge()])
    even = [row for row in rows.splits["test"] if (len(row["input_ids"]) - 1) % 2 == 0]
    assert report.parts["even"].rows == len(even)
    assert report.judged["lens"]["words"].value == report.judged["context_tail"]["words"].value == 2
    assert {"lens", "shuffled_activation", "context_tail"} == set(report.judged) - {"table", "probes", "logit_lens"}
    assert report.number("kl_recovered", part="even") != report.number("kl_recovered")
    assert report.parts["even"].differences["context_tail"]["kl_recovered"].value > 0
    assert "P is even" in report.definitions["even"]


def test_a_subset_that_no_row_is_in_is_no_part(rows: Activations) -> None:
    class Never(EvenJudge):
        def subsets(self, rows: Mapping[str, Sequence[Any]]) -> dict[str, Tensor]:
            return {"never": torch.zeros(len(rows["position"]), dtype=torch.bool), **super().subsets(rows)}

    report = judged(rows, lens_of(rows), judges=[Never()])
    assert set(report.parts) == {"all", "even"}


def test_traits_count_only_rows_that_have_them(rows: Activations) -> None:
    report = judged(rows, lens_of(rows))
    assert report.traits["length"].value == 2  # the first row of each batch has none
    assert report.traits["text_nll_above_samples"].value == 1


def test_gains_are_measured_on_the_same_rows(rows: Activations) -> None:
    """Against two reports by themselves; and what both lenses have in common is in no interval."""
    now, before = lens_of(rows, 0.9), lens_of(rows, 0.6)
    report = judged(rows, now, before=before, judges=[EvenJudge()])
    alone = judged(rows, before, judges=[EvenJudge()])
    for name, part in (("kl_recovered", "all"), ("fve", "all"), ("fve_nrm", "all"), ("top1", "even")):
        gain = report.gains[name if part == "all" else f"{part}: {name}"]
        after, earlier = report.number(name, part=part), alone.number(name, part=part)
        assert gain["after"] == after and gain["before"] == earlier
        assert gain["gain"].value == pytest.approx(after.value - earlier.value)
    fve = report.gains["fve"]
    assert fve["gain"].low > 0 and fve["gain"].high - fve["gain"].low < fve["before"].high - fve["before"].low
    assert report.gains["words"]["gain"].value == 0
    assert Report.from_dict(report.to_dict()).gains == report.gains
    assert alone.gains == {} and any("warm start" in table.title for table in tables_of(report))
    assert report.number("kl", "self").value == 0


def test_an_earlier_lens_of_another_subject_is_refused(rows: Activations) -> None:
    other = VectorLens(shared_lm("gpt2"), torch.zeros(32))
    with pytest.raises(ProvenanceMismatch):
        judged(rows, lens_of(rows), before=other)
