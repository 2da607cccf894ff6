"""Features changed in `explain`, pages of features, and exports that are whole or not there."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_feature_contexts import batches, documents
from tiny import shared_lm, tiny_lm
from transcoder_runs import blocks
from transcoders import small_lens

from consistency_lens.cli.parsing.request import parse
from consistency_lens.errors import BadInput
from consistency_lens.sparse.features.describing import describe_features
from consistency_lens.sparse.modeling import CrosslayerTranscoder
from consistency_lens.sparse.options import FeatureOptions
from consistency_lens.sparse.running import TranscoderRun
from consistency_lens.sparse.use import circuit_tracer
from consistency_lens.sparse.use.circuit_tracer import export, names_of, read_export
from consistency_lens.sparse.use.dashboards import cantor, read_page
from consistency_lens.sparse.use.explaining import explain_tokens

TEXT = "w1 w2 w3 w4 w5"


def known_lens(**settings: Any) -> CrosslayerTranscoder:
    lens = small_lens(**settings)
    describe_features(lens, batches(documents(40), 8))
    return lens


def run_of(*words: str) -> TranscoderRun:
    found = parse(["explain", "--family", "sparse", "--lens", "x", *words]).family
    assert isinstance(found, TranscoderRun)
    return found


def test_features_are_named_on_the_command_line() -> None:
    found = FeatureOptions(ablate="2:117, 3/40", amplify="0:1=3,0:2=0.5")
    assert found.factors == {(2, 117): 0.0, (3, 40): 0.0, (0, 1): 3.0, (0, 2): 0.5}
    assert FeatureOptions().factors == {}
    for field, given in (
        *[("ablate", word) for word in ("", "2", "2:x", "2:1,", "2:1,2:1", "-1:2")],
        *[("amplify", word) for word in ("", "2:1", "2:1=x", "2:1=nan", "2=3", "2:1,2:3=1", "2:1=3,2:1=2")],
    ):
        with pytest.raises(BadInput) as caught:
            run_of(f"--{field}={given}").require_options(whole_run=False)
        assert caught.value.field == field
    with pytest.raises(BadInput, match="stands twice"):
        run_of("--ablate=2:1", "--amplify=2:1=3").require_options(whole_run=False)
    with pytest.raises(BadInput, match="context_documents"):
        FeatureOptions(context_documents=-1)


@pytest.mark.parametrize("inside", ["model", "lens"])
def test_explain_says_what_a_change_of_features_does_at_each_token(inside: str) -> None:
    lens = known_lens()
    layer, feature, _ = lens.features(TEXT)[-1]["features"][0]
    run = run_of(f"--ablate={layer}:{feature}", f"--inside={inside}", TEXT)
    rows = run.explain(lens, TEXT, [-1])
    found = lens.ablate(TEXT, [(layer, feature)], inside=inside)
    (row,) = rows
    assert row["kl"] == pytest.approx(found.kl, rel=1e-4) and row["kl"] > 0
    assert [token for token, _ in row["after"]] == [token for token, _ in found.after]
    assert [token for token, _ in row["before"]] == [token for token, _ in found.before]
    lines = run.cell_of(row).splitlines()
    assert lines[0].startswith(f"{layer}/{feature} ") and row["labels"][0] in lines[0] and row["labels"][0]
    assert lines[-1] == f"{row['active']} active"
    plain = run_of(TEXT)
    assert plain.explain(lens, TEXT, [-1]) == lens.explain(TEXT, positions=[-1])
    with pytest.raises(BadInput, match="inside"):
        explain_tokens(lens, TEXT, inside="nowhere")
    with pytest.raises(BadInput, match="feature"):
        run_of("--ablate=0:24").explain(lens, TEXT, [-1])


def test_pages_of_features_are_read_by_the_bytes_that_the_index_names(tmp_path: Path) -> None:
    lens = known_lens()
    folder = export(lens, tmp_path / "clt")
    index = json.loads(gzip.decompress((folder / "features/index.json.gz").read_bytes()))
    assert {name: len(entry["offsets"]) for name, entry in index.items()} == {str(i): 25 for i in range(4)}
    assert lens.contexts is not None
    for layer, feature in ((0, 0), (2, 23), (3, 7)):
        about, page = lens.contexts.of(layer, feature), read_page(folder, layer, feature)
        assert page["index"] == feature and page["act_max"] == about["max"]
        assert page["activation_frequency"] == about["density"] and sum(page["histogram"]) == len(about["sample"])
        ((quantile),) = page["examples_quantiles"]
        assert about["label"] in quantile["quantile_name"] and len(quantile["examples"]) == len(about["contexts"])
        example, context = quantile["examples"][0], about["contexts"][0]
        assert example["tokens"] == context["tokens"]
        assert example["tokens_acts_list"][example["train_token_ind"]] == pytest.approx(about["max"])
        assert page["top_logits"] == [side["token"] for side in about["promotes"]]
        assert len(page["quantile_values"]) == 99 and np.all(np.diff(page["quantile_values"]) >= 0)
    numbers = {cantor(layer, feature) for layer in range(30) for feature in range(30)}
    assert len(numbers) == 900 and cantor(2, 5) == 33
    assert read_export(folder, shared_lm("llama")).config.features == 24
    export(lens, folder)  # over itself, pages and all
    assert sorted(path.name for path in folder.iterdir()) == sorted([*names_of(4), "features"])


def test_an_export_is_whole_or_what_was_there_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lens, place = small_lens(), tmp_path / "clt"
    export(lens, place)
    before = {path.name: path.read_bytes() for path in place.iterdir()}

    def torn(files: Any, folder: Path) -> bool:
        written = circuit_tracer_save(files, folder)
        (folder / "W_dec_2.safetensors").unlink()
        return written

    circuit_tracer_save = circuit_tracer.save_files
    monkeypatch.setattr(circuit_tracer, "save_files", torn)
    with torch.no_grad():
        lens.targets.b_dec += 1
    with pytest.raises(BadInput, match=r"W_dec_2\.safetensors is not in what was written"):
        export(lens, place)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before
    monkeypatch.undo()
    export(lens, place)
    assert (place / "W_enc_0.safetensors").read_bytes() != before["W_enc_0.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["clt"], "nothing is left beside it"
    lens.subject = tiny_lm("llama", num_hidden_layers=2)
    with pytest.raises(BadInput, match="has 2 layers"):
        export(lens, place)


def test_the_run_calibrates_a_topk_on_its_own_tokens(tmp_path: Path) -> None:
    lens = small_lens(nonlinearity="topk", k=3)
    run = run_of("--per_device_train_batch_size=64")
    folder = run.export(lens, "circuit-tracer", tmp_path / "clt", blocks)
    again = read_export(folder, shared_lm("llama"))
    assert again.config.nonlinearity == "jumprelu"
    asked: list[str] = []
    run.export(small_lens(), "circuit-tracer", tmp_path / "jump", lambda: asked.append("data"))
    assert not asked, "thresholds that are there need no data"


def test_contexts_of_a_run_are_of_the_split_that_is_named(tmp_path: Path) -> None:
    lens = small_lens()
    run_of("--context_documents=0").beside(lens, blocks(), tmp_path)
    assert lens.contexts is None and not list(tmp_path.iterdir())
    run_of("--context_documents=9", "--context_split=validation").beside(lens, blocks(), tmp_path)
    known: Any = lens.contexts
    assert known.about["split"] == "validation" and known.about["documents"] <= 9
    assert [path.name for path in tmp_path.iterdir()] == ["contexts.parquet"]
