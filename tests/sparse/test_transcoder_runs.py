"""`run_lens.py` with a transcoder: a whole run in a process of its own, then explain and evaluate on what it left."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from extracting import random_texts, run, saved_model, write_jsonl
from tiny import tiny_model, tiny_tokenizer
from whole_runs import losses

from consistency_lens import AutoLens, FrozenLM, Report
from consistency_lens.activations.blocks import Blocks
from consistency_lens.base.saving.checkpoint import checkpoints
from consistency_lens.cli.parsing.request import parse
from consistency_lens.errors import BadInput
from consistency_lens.frozen.sites import resolve_sites
from consistency_lens.sparse.features.contexts import FeatureContexts
from consistency_lens.sparse.measuring.twins import equal_features
from consistency_lens.sparse.modeling import CrosslayerTranscoder
from consistency_lens.sparse.use.circuit_tracer import names_of
from consistency_lens.sparse.use.dashboards import read_page

SMALL = [
    *["--family", "sparse", "--validation_fraction", "0.2", "--test_fraction", "0.2", "--tokens_per_block", "128"],
    *["--use_cpu", "--features", "32", "--nonlinearity", "topk", "--k", "3", "--max_steps", "4", "--save_steps", "2"],
    *["--per_device_train_batch_size", "48", "--per_device_eval_batch_size", "4", "--eval_strategy", "steps"],
    *["--eval_steps", "2", "--eval_rows", "6", "--sample_rows", "3", "--logging_steps", "1"],
    *["--learning_rate", "1e-2"],
    *["--report_rows", "8", "--report_batch_size", "4", "--dead_after", "100", "--revive_steps", "2"],
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def made(place: Path) -> Path:
    texts = write_jsonl(place / "texts.jsonl", random_texts(60, shortest=8, longest=20))
    words = ["--model_name_or_path", str(saved_model()), "--train_file", str(texts), *SMALL]
    beside = ["--per_layer", "--ship_jumprelu"]
    code, said = run([*words, *beside], place / "log", os.chdir, place)
    assert code == 0, said
    (folder,) = (place / "outputs").glob("*_topk3_32_*")
    return folder


def blocks_of(place: Path) -> Path:
    (folder,) = (place / "outputs").glob("*-activations")
    return folder


def test_a_whole_run_leaves_lens_report_and_card(made: Path, place: Path) -> None:
    assert made.name.startswith("tiny-llama_8-sites_texts_")
    assert [folder.name for folder in checkpoints(made)] == ["checkpoint-2", "checkpoint-4"]
    report = Report.load(made / "report")
    assert report.groups["controls"] == ["shuffled", "random", "pca", "per_layer"] and report.data["rows"] == 8
    assert report.groups["thresholds"] == ["jumprelu"]
    assert report.number("l0").value == report.number("l0", "per_layer").value == pytest.approx(3.0)
    per_layer, shipped = (AutoLens.from_pretrained(made / name, saved_model()) for name in ("per_layer", "jumprelu"))
    assert per_layer.config.features == equal_features(AutoLens.from_pretrained(made, saved_model()).config) == 56
    assert not per_layer.config.crosslayer and shipped.config.nonlinearity == "jumprelu"
    lens = AutoLens.from_pretrained(made, subject=FrozenLM.from_pretrained(saved_model()))
    assert isinstance(lens, CrosslayerTranscoder) and set(lens.config.all_sites) == set(
        Blocks.load(blocks_of(place)).sites
    )
    card = (made / "lens/README.md").read_text()
    assert "strongest features" in card and "explained variance" in card and "lens.features" in card
    assert isinstance(lens.contexts, FeatureContexts) and lens.contexts.about["split"] == "train"
    assert "The most convincing" in card and lens.contexts.ranked()[0][0]["label"] in card
    log = (made / "log.txt").read_text()
    assert "first document" in log and "4 explanations" in log and "kl_recovered" in log
    assert "family: sparse" in (made / "recipe.yaml").read_text()


def test_features_by_token_are_explained(made: Path, place: Path) -> None:
    named = ["explain", "--lens", str(made), "--model_name_or_path", str(saved_model()), "--use_cpu"]
    code, said = run([*named, "--json", "w1 w2 w3"], place / "log-explain")
    assert code == 0, said
    rows = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert [row["token"] for row in rows] == ["w1", "w2", "w3"]
    assert all(row["active"] == 12 and row["explanation"].count("/") == 5 for row in rows)
    assert all(row["kl"] > 0 and len(row["after"]) == 5 for row in rows)
    code, said = run([*named, "w1 w2 w3"], place / "log-table")
    assert code == 0 and "with the edits" in said, said
    assert all(any(rows[0]["labels"]) for row in rows)
    layer, feature, _ = rows[-1]["features"][0]
    code, said = run([*named, "--ablate", f"{layer}:{feature}", "w1 w2 w3"], place / "log-ablate")
    assert code == 0 and "with the edits" in said and f"{layer}/{feature} " in said, said


def test_it_is_exported_and_read_back(made: Path, place: Path) -> None:
    named = ["--lens", str(made), "--model_name_or_path", str(saved_model()), "--use_cpu"]
    code, said = run(
        ["export", "--to", "circuit-tracer", str(place / "clt"), *named], place / "log-export", os.chdir, place
    )
    assert code == 0 and "files for circuit-tracer" in said, said
    assert read_page(place / "clt", 0, 0)["index"] == 0
    for words, why in (
        (["--to", "elsewhere", "x"], "Write --to and one of circuit-tracer"),
        (["--to", "circuit-tracer"], "Name the folder to write"),
        (["--to", "circuit-tracer", "x", "--subfolder", "y"], "Name the repository"),
        (["--to", "circuit-tracer", "x", "--repo_id", "me/x", "--subfolder", "../y"], "Use letters, digits"),
    ):
        code, said = run(["export", *words, *named], place / "log-refused")
        assert code == 2 and why in said, said
    words = ["evaluate", "--family", "sparse", "--lens", str(place / "clt"), *named[2:], "--report_rows", "6"]
    words += [
        "--activations",
        str(blocks_of(place)),
        "--output_dir",
        str(place / "of-clt"),
        "--report_batch_size",
        "3",
    ]
    code, said = run(words, place / "log-of-clt", os.chdir, place)
    assert code == 0, said
    assert Report.load(place / "of-clt/report").number("l0").value == pytest.approx(3.0, rel=0.4)
    assert sorted(path.name for path in (place / "clt").glob("*.*")) == sorted(names_of(4)), "it stays as it was"


def test_a_lens_is_evaluated_again(made: Path, place: Path) -> None:
    named = ["evaluate", "--lens", str(made), "--model_name_or_path", str(saved_model()), "--use_cpu"]
    more = ["--activations", str(blocks_of(place)), "--output_dir", str(place / "again")]
    code, said = run([*named, *more], place / "log-evaluate", os.chdir, place)
    assert code == 0, said
    again, before = Report.load(place / "again/report"), Report.load(made / "report")
    assert again.number("kl").value == pytest.approx(before.number("kl").value, rel=1e-4)


def test_it_goes_on_from_a_checkpoint_and_streams(made: Path, place: Path) -> None:
    folder = place / "cut"
    shutil.copytree(made, folder)
    shutil.rmtree(folder / "checkpoint-4")
    named = ["--model_name_or_path", str(saved_model()), "--activations", str(blocks_of(place)), *SMALL]
    words = ["train", *named, "--output_dir", str(folder), "--resume_from_checkpoint", "true"]
    code, said = run(words, place / "log-resumed", os.chdir, place)
    assert code == 0, said
    assert losses(folder) == losses(made)
    words = ["train", *named, "--output_dir", str(place / "streamed"), "--stream_activations"]
    code, said = run([*words, "--train_file", str(place / "texts.jsonl")], place / "log-stream", os.chdir, place)
    assert code == 0, said
    assert [loss for _, loss in losses(place / "streamed")] == pytest.approx(
        [loss for _, loss in losses(made)], rel=1e-4
    )


def small_run(place: Path, recipe: str, case: str, *more: str) -> Any:
    """The configuration of the lens that a recipe makes on a random model of its class, in the folder of that name."""
    name = recipe.removeprefix("transcoder_")
    model = place / f"tiny-{case}"
    tiny_model(case).save_pretrained(model)
    tiny_tokenizer().save_pretrained(model)
    texts = write_jsonl(place / "prose.jsonl", random_texts(60, shortest=8, longest=20))
    words = ["--config", recipe, "--model_name_or_path", str(model), "--train_file", str(texts)]
    words += ["--max_documents", "60", "--max_length", "64", "--tokens_per_block", "128", *more]
    words += ["--features", "48", "--max_steps", "4", "--per_device_train_batch_size", "64", "--eval_steps", "2"]
    words += ["--save_steps", "2", "--logging_steps", "1", "--report_rows", "6", "--use_cpu"]
    code, said = run([*words, "--output_dir", str(place / name)], place / f"log-{name}", os.chdir, place)
    assert code == 0, said
    return AutoLens.from_pretrained(place / name, str(model)).config


def test_the_recipe_for_gpt2_runs_on_a_small_model_of_its_class(place: Path) -> None:
    """All that it says but sizes: data in int8, a JumpReLU with its ramp, evaluations, the report."""
    lens = small_run(place, "transcoder_gpt2", "gpt2")
    assert (lens.nonlinearity, lens.threshold, lens.bandwidth, lens.crosslayer) == ("jumprelu", 0.03, 1.0, True)
    (folder,) = (place / "outputs").glob("tiny-gpt2*-activations")
    assert Blocks.load(folder).metadata["dtype"] == "int8"
    history = json.loads((checkpoints(place / "gpt2")[-1] / "trainer_state.json").read_text())["log_history"]
    assert [entry["weight/sparsity"] for entry in history if "loss" in entry] == pytest.approx([0, 5e-5, 1e-4, 1.5e-4])
    assert {entry["learning_rate"] for entry in history if "loss" in entry} == {1e-3}
    assert 0 < Report.load(place / "gpt2/report").number("l0").value <= 48


def test_the_recipe_for_smollm2_runs_on_a_small_model_of_its_class(place: Path) -> None:
    """All that it says but sizes: products in bfloat16, data in int8, per-layer transcoders, dead features."""
    parts = ["--validation_fraction", "0.1", "--test_fraction", "0.1"]
    blocks = ["--activations_dir", str(place / "smollm2-blocks")]
    lens = small_run(place, "transcoder_smollm2", "llama", "--k", "8", *parts, *blocks)
    assert (lens.nonlinearity, lens.crosslayer, len(lens.window)) == ("batchtopk", False, 4)
    assert Blocks.load(place / "smollm2-blocks").metadata["dtype"] == "int8"
    assert 0 < Report.load(place / "smollm2/report").number("l0").value <= 12


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (["--k", "40"], "k"),
        (["--layers", "2:9"], "layers"),
        (["--read_stage", "resid_post"], "read_stage"),
        (["--sites", "mlp_out.*"], "sites"),
        (["--code_length", "3"], "option"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_read(place: Path, words: list[str], field: str) -> None:
    named: list[Any] = ["--model_name_or_path", str(saved_model()), "--train_file", str(place / "texts.jsonl")]
    if field == "option":
        with pytest.raises(BadInput, match="code_length"):
            parse([*named, *SMALL, *words])
        return
    request = parse([*named, *SMALL, *words])
    with pytest.raises(BadInput, match=field):
        request.family.configuration(4, 32)
        request.family.sites([str(site) for site in resolve_sites(request.extraction.sites, 4)])
