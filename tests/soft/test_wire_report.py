"""The report of a wire: each receiver beside the text, no context, truncation and codes that know less."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lens_runs import tiny_lens
from tiny import tiny_lm, tiny_model
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from wire_runs import NAMES, batch_of, wire_lens, wire_models, wire_passages

from consistency_lens.errors import BadInput
from consistency_lens.evaluation import HeldOut, Report, evaluate
from consistency_lens.soft.code import LatentCode
from consistency_lens.soft.report.controls import averaged, others, truncated, whole_text
from consistency_lens.soft.report.spelling import at_vectors
from consistency_lens.soft.report.wire_report import WireReport
from consistency_lens.soft.serving.answering import AnswerSettings
from consistency_lens.soft.sizing import cache_of, prefill_of


def report_of(longest_answer: int | None = None, oracle_rows: int = 0, **settings: object) -> Report:
    lens = wire_lens(calibrate=False, **settings)
    held_out, of_family = HeldOut("test", batch_size=6, horizon=0), WireReport(longest_answer, (2.0,), oracle_rows, 0)
    return evaluate(lens, wire_models(), wire_passages(), of_family, held_out, progress=False)


def test_every_control_of_every_receiver(tmp_path: Path) -> None:
    report = report_of(ratio=1.0, oracle_rows=2)
    cuts, spoiled = (
        ["first", "last", "thinned", "least_expected", "either"],
        ["shuffled", "mean", "foreign", "untrained"],
    )
    rates = ["int8", "int6", "int4", "2x fp16", "first 2x", "last 2x", "shuffled 2x"]
    assert [*report.parts["all"].numbers] == ["text", "none", "lens", *cuts, *spoiled, *rates]
    for name in NAMES:
        assert report.number(f"kl/{name}", "text").value < 1e-4
        assert report.number(f"nll_recovered/{name}", "text").value == pytest.approx(1)
        assert report.number(f"nll_recovered/{name}", "none").value == pytest.approx(0)
        assert report.number(f"kl_recovered/{name}", "none").value == pytest.approx(0)
        # A vector for each token: what is cut off is nothing.
        assert report.number(f"kl/{name}", "first").value < 1e-4 and report.number(f"kl/{name}", "last").value < 1e-4
        assert 0 <= report.number(f"em/{name}").value <= report.number(f"f1/{name}").value <= 1
        assert report.number(f"em/{name}").value <= report.number(f"contains/{name}").value <= 1
    assert report.number("kl_recovered/words").value > 0.99 > report.number("kl_recovered/words", "shuffled").value
    mean = sum(report.number(f"nll/{name}").value for name in NAMES) / 2
    assert report.number("nll").value == pytest.approx(mean)
    assert report.traits["tokens_per_vector"].value == 1 and report.traits["bytes"].value > 16
    words, turned = report.verdict.split(" turned: ")
    assert words.startswith("words: ") and "with the text" in turned and not report.about.good
    assert words.endswith("no better than truncation.") and turned.endswith("no better than truncation.")
    assert all(report.parts["all"].differences["shuffled"][f"kl/{name}"].high < 0 for name in NAMES)
    assert {"answer_early", "answer_middle"} <= report.parts.keys()
    assert all(part.rows for part in report.parts.values()), "no answer stands late in these passages"
    for name in NAMES:
        assert report.judged["lens"][f"oracle_gap/{name}"].value > -1e-4
        for code in ("lens", "2x fp16"):
            cut = min(report.number(f"nll/{name}", each).value for each in cuts_beside(code))
            below = report.number(f"nll_below_truncation/{name}", code).value
            assert below == pytest.approx(cut - report.number(f"nll/{name}", code).value, abs=1e-6)
        assert f"nll_below_truncation/{name}" not in report.parts["all"].numbers["first 2x"]
    assert {"em_joint", "f1_joint", "bytes"} <= report.judged["lens"].keys() & report.judged["shuffled"].keys() | {
        "bytes"
    }
    assert report.judged["lens"]["bytes"].value > report.judged["int4"]["bytes"].value
    assert report.judged["2x fp16"]["bytes"].value < report.judged["lens"]["bytes"].value
    assert report.judged["text"]["bytes"].value == report.traits["utf8"].value
    assert report.number("kl", "untrained").value == report.number("kl").value, "it is not trained yet"
    for name in NAMES:
        text, code, fewer = (report.judged[each][f"prefill/{name}"].value for each in ("text", "lens", "2x fp16"))
        assert fewer < text < code, "as many vectors as tokens, and the adapter"
        text, code, fewer = (report.judged[each][f"cache/{name}"].value for each in ("text", "lens", "2x fp16"))
        assert fewer < text == code, "what is kept are places"
    assert report.traits["prefill_ratio"].value < 1 and report.traits["compressing"].value > 0
    listings = {listing.title.split()[1]: listing for listing in report.about.listings}
    assert [*listings] == list(NAMES)
    for name, listing in listings.items():
        right = [row[-1] == "yes" for row in listing.rows]
        assert sum(right) == min(5, round(report.number(f"em/{name}").value * 10)) and right.count(False) == 5
        assert all((row[2] in row[3].split(" / ")) == (row[-1] == "yes") for row in listing.rows)
    curve = report.about.curve
    assert (
        curve is not None
        and curve.series["code"][0] == "lens"
        and curve.series["code, 2x"] == ["2x fp16"]
        and "last 2x" in curve.series["text, cut"]
        and curve.priced == {"text, zstd": ["text", "zstd"]}
    )
    assert "Answers are decoded so: greedy." in report.remarks
    report.save(tmp_path)
    assert Report.load(tmp_path).to_dict() == report.to_dict()
    assert "another passage" in (tmp_path / "report.md").read_text() and (tmp_path / "bytes.png").is_file()


def test_another_wire_is_a_control_and_a_text_lens_reads_the_vectors(tmp_path: Path) -> None:
    other, text_lens = wire_lens(ratio=1.0, layers=1), tiny_lens(tiny_lm())
    with torch.no_grad():
        other.compressor.down.weight.copy_(other.compressor.down.weight.flip(0))
    of_family = WireReport(0, (), 0, 0, other_wire=other, text_lens=text_lens)
    held_out = HeldOut("test", batch_size=6, horizon=0)
    report = evaluate(wire_lens(ratio=1.0), wire_models(), wire_passages(), of_family, held_out, progress=False)
    assert report.number("kl", "other_wire").value > 2 * report.number("kl").value
    assert 0 <= report.traits["spelled"].value <= 1 and 0 <= report.traits["spelled_of_another"].value <= 1
    (listing,) = report.about.listings
    assert listing.title.startswith("What a text lens of words writes") and len(listing.rows) == 10
    assert all(row[1].count(" · ") == len(row[0].split()) - 1 for row in listing.rows), "one text for each vector"
    report.save(tmp_path)
    assert Report.load(tmp_path).about == report.about and listing.title in (tmp_path / "report.md").read_text()
    for given, named in (({"other_wire": wire_lens(d_z=16)}, "other_wire"), ({"text_lens": other}, "text_lens")):
        with pytest.raises(BadInput, match=named):
            WireReport(**given).begin(wire_lens(), wire_models(), wire_passages(), held_out)


def test_what_soft_tokens_are_in_the_model() -> None:
    """Of a code that is the embeddings themselves: the activations of the text."""
    lens, batch, model = wire_lens(calibrate=False, ratio=1.0), batch_of(3), wire_models()["words"]
    code, tokens, reader = lens.compress(batch), batch["tokens"]["words"], tiny_lens(tiny_lm())
    found = at_vectors(model, lens.soft_tokens(code, batch, "words").tensor, code.mask, tokens["bos"], reader)
    row, length = 1, int(tokens["passage_mask"][1].sum())
    ids = torch.tensor([[model.tokenizer.bos_token_id, *tokens["passage_ids"][row, :length].tolist()]])
    expected = model.read({"input_ids": ids}, "resid_post.1")["resid_post.1"][0, 1:]
    start = code.counts[0]
    torch.testing.assert_close(found["resid_post.1"][start : start + length], expected, rtol=1e-2, atol=1e-2)


def test_operations_are_those_that_are_made() -> None:
    """Against torch's own count; elementwise work is in neither."""
    lens, batch = wire_lens(slots=2), batch_of([0])
    model: Any = tiny_model("llama", attn_implementation="eager")
    ids = torch.ones(1, 9, dtype=torch.long)
    with FlopCounterMode(display=False) as counted:
        model(ids, logits_to_keep=1)
    assert counted.get_total_flops() == pytest.approx(float(prefill_of(model, torch.tensor([9]))), rel=0.01)
    lens.compressor.lm.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counted, sdpa_kernel(SDPBackend.MATH):
        lens.compress(batch)
    tokens = batch["tokens"]["words"]["passage_mask"].sum(1)
    assert counted.get_total_flops() == pytest.approx(
        float(lens.compressor.operations(tokens, torch.tensor([2]))), rel=0.02
    )


@pytest.mark.parametrize("case", ["llama", "gpt2", "gemma3"])
def test_a_cache_is_as_large_as_reckoned(case: str) -> None:
    model = tiny_model(case)
    with torch.no_grad():
        kept = model(torch.ones(1, 5, dtype=torch.long), use_cache=True).past_key_values
    size = sum(tensor.nbytes for layer in kept.layers for tensor in (layer.keys, layer.values))
    assert size == int(cache_of(model.config, torch.tensor([5]), 4))


def test_a_window_keeps_no_more_than_itself() -> None:
    config = tiny_model("gemma3").config
    kinds = config.layer_types.count("sliding_attention"), config.layer_types.count("full_attention")
    assert kinds[0] and sum(kinds) == config.num_hidden_layers
    long, window = 10 * config.sliding_window, config.sliding_window
    (of_long,) = cache_of(config, torch.tensor([long])).tolist()
    assert of_long == 4 * config.num_key_value_heads * config.head_dim * (kinds[0] * window + kinds[1] * long)


def test_how_answers_are_decoded_is_said_beside_their_figures() -> None:
    drawn = AnswerSettings(first_top_p=0.9, first_temperature=2.0, min_new_tokens=1, stop_at_line=True, seed=3)
    held_out, found = HeldOut("test", batch_size=6, horizon=0), []
    for settings in (None, drawn):
        of_family = WireReport(2, (), 0, 0, settings=settings)
        found.append(
            evaluate(wire_lens(ratio=1.0), wire_models(), wire_passages(), of_family, held_out, progress=False)
        )
    assert found[0].number("f1/words").value != found[1].number("f1/words").value
    assert found[0].number("nll/words").value == found[1].number("nll/words").value, "teacher-forced"
    assert found[1].remarks[0] == (
        "Answers are decoded so: the first token drawn (top-p 0.9, temperature 2, seed 3), the others the likeliest "
        "ones, no end of the text in the first 1, ended where the line ends."
    )
    with pytest.raises(BadInput, match="top_p"):
        WireReport(settings=AnswerSettings(first_top_p=2.0))


def test_a_model_that_cannot_read_the_text_is_named() -> None:
    """What a loss that is shifted twice looked like: more nats with the text than a model that knows nothing has."""
    report = report_of(0, ratio=1.0)
    blind = [remark for remark in report.remarks if "ln V = 4.56" in remark]
    above = [name for name in NAMES if report.number(f"nll/{name}", "text").value >= math.log(96)]
    assert above and [remark.partition(":")[0] for remark in blind] == above, "these models are random"


def cuts_beside(code: str) -> list[str]:
    return ["first 2x", "last 2x"] if code.startswith("2x") else ["first", "last", "thinned", "least_expected"]


def test_a_code_that_is_the_same_for_all_passages_is_called_ignored() -> None:
    lens = wire_lens(slots=2)
    torch.nn.init.zeros_(lens.compressor.down.weight)
    torch.nn.init.ones_(lens.compressor.down.bias)
    held_out = HeldOut("test", batch_size=6, horizon=0)
    report = evaluate(lens, wire_models(), wire_passages(), WireReport(0, (), 0, 0), held_out, progress=False)
    assert report.verdict.count("ignores the code") == 2 and not report.about.good
    assert report.number("kl").value == report.number("kl", "shuffled").value


def test_without_generation_there_is_no_exact_match() -> None:
    report = report_of(0, slots=2)
    assert "em" not in report.parts["all"].numbers["lens"] and "nll/turned" in report.parts["all"].numbers["lens"]
    assert report.traits["vectors"].value == 2


def test_truncation_takes_the_models_own_tokens() -> None:
    batch, model = batch_of(6), wire_models()["turned"]
    tokens = batch["tokens"]["turned"]
    lengths = tokens["passage_mask"].sum(1).tolist()
    counts = torch.tensor([2, 3, 4, 3, 9, 1])
    table = model.model.get_input_embeddings()
    for how in ("first", "last", "thinned"):
        edit = truncated(model, tokens, counts, how)
        assert edit.mask is not None and edit.lm == "turned"
        for row, length in enumerate(lengths):
            n = min(int(counts[row]), length)
            ids = tokens["passage_ids"][row, :length]
            spaced = ids[[i * length // n for i in range(n)]]
            wanted = {"first": ids[:n], "last": ids[length - n :], "thinned": spaced}[how]
            assert torch.equal(edit.tensor[row][edit.mask[row]], table(wanted))
    assert whole_text(model, tokens).mask.sum(1).tolist() == lengths


def test_another_row_is_of_another_document() -> None:
    assert others(torch.tensor([4, 4, 7, 4])).tolist() == [2, 2, 3, 2]
    assert others(torch.tensor([4, 4])).tolist() == [0, 1]


def test_the_mean_keeps_the_number_of_vectors() -> None:
    vectors = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [0.0, 0.0]]])
    code = averaged(LatentCode(vectors, torch.tensor([[True, True], [True, False]])))
    assert code.vectors.tolist() == [[[3, 4], [3, 4]], [[3, 4], [0, 0]]] and code.counts == [2, 1]


def test_what_cannot_be_evaluated_is_refused() -> None:
    with pytest.raises(BadInput, match="longest_answer"):
        WireReport(-1)
    with pytest.raises(BadInput, match="factors"):
        WireReport(factors=(1.0,))
    with pytest.raises(BadInput, match="oracle_rows"):
        WireReport(oracle_rows=-1)
    for changes, named in (({"split": "future"}, "split"), ({"batch_size": 1}, "batch_size")):
        with pytest.raises(BadInput, match=named):
            report = WireReport(0, (), 0, 0)
            evaluate(wire_lens(), wire_models(), wire_passages(), report, HeldOut(**changes), progress=False)
