"""Every recipe of the package, from its texts to its report: a tiny random model of the same class, a few steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from extracting import random_texts, write_jsonl
from tiny import tiny_model, tiny_tokenizer

from consistency_lens import Report
from consistency_lens.auto import is_ours
from consistency_lens.cli import load_recipe, main, recipe_names

SAID_OF_TEXTS = ("dataset_name", "dataset_config", "split")


@dataclass(frozen=True)
class Small:
    """
    Args:
        case: of `tiny.TINY_CONFIGS`: the class of the recipe's model. `demo` and `pages` are the offline models,
            untrained.
        values: what takes the place of the recipe's own, beside `STEPS`.
    """

    case: str
    values: Mapping[str, Any] = field(default_factory=dict)


STEPS = {
    **{"max_steps": 2, "per_device_train_batch_size": 4, "per_device_eval_batch_size": 8},
    **{
        "eval_steps": 2,
        "save_steps": 2,
        "logging_steps": 1,
        "eval_rows": 8,
        "report_rows": 12,
        "report_batch_size": 6,
    },
    **{"validation_fraction": 0.2, "test_fraction": 0.2, "use_cpu": True},
}
# Its two baselines are a training each, and in every other test of a whole run.
TEXT = {"max_documents": 24, "warm_steps": 1, "rollouts": 2, "code_length": 4, "tail_baseline": False}
TEXT |= {"sample_rows": 4}
# Recipe -> how it is made small. A recipe that is new needs a line here.
RECIPES = {
    "demo": Small("demo", TEXT),
    "gpt2": Small("gpt2", TEXT),
    "llama3_8b_lora": Small("llama", TEXT | {"gradient_accumulation_steps": 2}),
    "qwen3_0.6b": Small("qwen3", TEXT),
    "smollm2": Small("llama", TEXT),
    "state_demo": Small("pages", TEXT | {"max_documents": 90, "warm_foresight": 4, "tail_baseline": True}),
}
ELSEWHERE = {
    "sparse_demo",
    "transcoder_gpt2",
    "transcoder_smollm2",
    "wire_demo",
    "wire_llama_qwen",
    "wire_smollm2_gemma",
}  # in the tests of their families


def test_no_recipe_is_left_out() -> None:
    assert RECIPES.keys() | ELSEWHERE == set(recipe_names()) and not RECIPES.keys() & ELSEWHERE


@cache
def tiny_folder(case: str, place: Path) -> Path:
    """Where a random model of a class lies, with room for a context, a prompt and a text."""
    folder = place / f"tiny-{case}"
    if case == "demo":
        from transformers import AutoModelForCausalLM

        from consistency_lens.demo.subject import model_config
        from consistency_lens.demo.tokenizer import build_tokenizer
        from consistency_lens.demo.training import SubjectConfig

        tokenizer = build_tokenizer()
        AutoModelForCausalLM.from_config(model_config(SubjectConfig(), tokenizer)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder
    if case == "pages":
        from consistency_lens.demo.pages.keeper import KeeperConfig, paged_config
        from consistency_lens.demo.pages.model import PagedLlamaForCausalLM
        from consistency_lens.demo.tokenizer import build_tokenizer

        tokenizer = build_tokenizer()
        PagedLlamaForCausalLM(paged_config(KeeperConfig(), tokenizer)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder
    room = {"n_positions" if case == "gpt2" else "max_position_embeddings": 256}
    tiny_model(case, **room).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs_from_texts_to_report(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # where its rows go
    small, record = RECIPES[name], load_recipe(name)
    model = tiny_folder(small.case, tmp_path)
    record |= STEPS | dict(small.values) | {"model_name_or_path": str(model)}
    if small.case not in ("demo", "pages"):
        record = {key: value for key, value in record.items() if key not in SAID_OF_TEXTS}
        record["train_file"] = [str(write_jsonl(tmp_path / "texts.jsonl", random_texts(24, shortest=34, longest=60)))]
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(record))
    assert main(["--config", "small.yaml", "--output_dir", "outputs/run"]) == 0, capsys.readouterr().err
    report = Report.load(tmp_path / "outputs/run/report")
    assert report.data["rows"] == 12 and report.number("kl").value > 0
    assert is_ours(str(tmp_path / "outputs/run/lens")) and (tmp_path / "outputs/run/lens/README.md").is_file()
