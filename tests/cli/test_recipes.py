"""Recipes: every one of ours parses, and what a run settled can be run again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from extracting import ROOT

from consistency_lens import cli
from consistency_lens.cli.parsing.options import options_of
from consistency_lens.cli.parsing.recipes import as_recipe
from consistency_lens.errors import BadInput

RECIPES = cli.recipe_names()


def test_there_are_recipes() -> None:
    assert set(RECIPES) == {
        "demo",
        "gpt2",
        "llama3_8b_lora",
        "qwen3_0.6b",
        "smollm2",
        "sparse_demo",
        "state_demo",
        "transcoder_gpt2",
        "transcoder_smollm2",
        "wire_demo",
        "wire_llama_qwen",
        "wire_smollm2_gemma",
    }


@pytest.mark.parametrize("command", [[], ["extract"], ["train"]])
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_parses_and_says_nothing_but_what_it_says(name: str, command: list[str]) -> None:
    record = yaml.safe_load((ROOT / f"consistency_lens/recipes/{name}.yaml").read_text())
    family = record.get("family", "text")
    assert record and set(record) <= set(options_of(family).names) and cli.load_recipe(name) == record
    values = cli.parse([*command, "--config", name]).values
    assert {key: values[key] for key in record} == record
    untouched = cli.parse([*command, "--family", family, "--model_name_or_path", "x"]).values
    assert {key for key in values if values[key] != untouched[key]} <= set(record)


@pytest.mark.parametrize("name", RECIPES)
def test_the_arguments_of_every_recipe_can_be_made(name: str) -> None:
    request = cli.parse(["--config", name])
    training = request.training(use_cpu=True, bf16=False)
    assert request.extraction.resume and request.extraction.validation_fraction > 0
    assert training.max_steps > 0
    if request.values["family"] != "text":
        return
    assert training.num_warm_steps < training.max_steps
    assert training.kl_horizon <= request.extraction.continuation_length
    assert request.values["trainable"] == ("lora" if "lora" in cli.load_recipe(name).values() else "full")


@pytest.mark.parametrize("name", RECIPES)
def test_every_value_that_is_not_obvious_has_its_comment(name: str) -> None:
    text = (ROOT / f"consistency_lens/recipes/{name}.yaml").read_text()
    assert text.startswith("# ") and text.count("  # ") >= 5


@pytest.mark.parametrize(
    "words",
    [
        ["--config", "demo"],
        ["--config", "llama3_8b_lora", "--kl_weight", "linear(1, 0.1, 100)", "--adam_beta2", "0.95"],
        [
            "--model_name_or_path",
            "a: b",
            "--train_file",
            "x.txt",
            "y.txt",
            "--prompt",
            "say: <A> #1",
            "--site",
            "embed",
        ],
        ["--model_name_or_path", "x", "--lr_scheduler_kwargs", '{"min_lr": 0.1}', "--no_tail_baseline"],
    ],
    ids=" ".join,
)
def test_what_was_settled_settles_the_same_again(tmp_path: Path, words: list[str]) -> None:
    values = cli.parse(words).values
    (tmp_path / "recipe.yaml").write_text(as_recipe(values))
    assert cli.parse(["--config", str(tmp_path / "recipe.yaml")]).values == values


def test_no_secret_is_written_down() -> None:
    values: dict[str, Any] = cli.parse(["--config", "demo", "--hub_token", "hf_secret"]).values
    assert values["hub_token"] == "hf_secret" and "hf_secret" not in as_recipe(values)


@pytest.mark.parametrize(
    ("words", "theirs", "ours"),
    [
        (["--family", "sparse"], "text", "sparse_demo, transcoder_gpt2, transcoder_smollm2"),
        (
            ["train", "--config", "sparse_demo", "--family", "text"],
            "sparse",
            "demo, gpt2, llama3_8b_lora, qwen3_0.6b, smollm2, state_demo",
        ),
    ],
)
def test_a_recipe_of_another_family_is_refused(words: list[str], theirs: str, ours: str) -> None:
    with pytest.raises(BadInput, match=f"the recipe is of the family {theirs}.*{ours}") as caught:
        cli.parse(words)
    assert caught.value.field == "family"


@pytest.mark.parametrize("command", ["evaluate", "explain"])
def test_a_lens_outside_of_a_run_says_which_family_it_is_of(command: str, tmp_path: Path) -> None:
    shared = {"sites": ["mlp_out.1"], "hidden_size": 32}
    origin = {"model_id": "m", "weights": "w", "tokenizer": "t", "sites": ["mlp_out.1"], "dtype": "float32"}
    for model_type, family in (("crosslayer_transcoder", "sparse"), ("consistency_lens", "text")):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type, "provenance": origin, **shared}))
        assert cli.parse([command, "--lens", str(tmp_path)]).options.family == family
