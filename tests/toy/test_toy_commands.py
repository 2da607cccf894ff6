"""`run_lens.py` with a family that it has never heard of: one line in the table, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from extracting import random_texts, saved_model
from passage_models import passage_models
from toy_family import FAMILY

from consistency_lens import cli
from consistency_lens.auto import FAMILIES


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "toy", FAMILY)


@pytest.fixture(scope="module")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, lm = tmp_path_factory.mktemp("models") / "bytes", passage_models()["bytes"]
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return folder


def recipe_in(folder: Path, other_model: Path) -> Path:
    texts = folder / "texts.txt"
    texts.write_text("\n".join(random_texts(60, shortest=16, longest=24)))
    record = {
        "family": "toy",
        "model_name_or_path": str(saved_model()),
        "other_models": [f"bytes={other_model}"],
        "train_file": [str(texts)],
        "rank": 3,
        "activations_dir": str(folder / "passages"),
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "eval_strategy": "steps",
        "eval_steps": 4,
        "eval_rows": 8,
        "report_batch_size": 4,
        "report_to": "none",
        "use_cpu": True,
    }
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(record))
    return path


def test_a_whole_run_from_text_to_report(
    tmp_path: Path, other_model: Path, known: None, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, run = recipe_in(tmp_path, other_model), tmp_path / "run"
    assert cli.main(["--config", str(recipe), "--output_dir", str(run)]) == 0, capsys.readouterr().err
    report = json.loads((run / "report/report.json").read_text())
    assert {"lens", "mean", "halved"} <= report["parts"]["all"]["numbers"].keys()
    card = (run / "lens/README.md").read_text()
    assert "3 features of each token" in card and "halved" in card
    capsys.readouterr()
    assert cli.main(["evaluate", "--lens", str(run), "--output_dir", str(tmp_path / "again")]) == 0
    again = json.loads((tmp_path / "again/report/report.json").read_text())
    assert again["parts"] == report["parts"]
    settled = yaml.safe_load((run / "recipe.yaml").read_text())
    assert settled["family"] == "toy" and settled["rank"] == 3


def test_what_its_options_are(
    tmp_path: Path, other_model: Path, known: None, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(recipe_in(tmp_path, other_model))
    for words, said in [
        (["plan", "--config", recipe], "command='plan'"),
        (["--config", recipe, "--code_length", "4"], "option='--code_length'"),
        (["--config", recipe, "--other_models", "bytes"], "other_models='bytes'"),
        (["--config", recipe, "--other_models", "base=x"], "other_models='base=x'"),
        (["--family", "nobody"], "family='nobody'"),
        (["--family", "sparse", "--config", "sparse_demo", "--report_horizon", "3"], "report_horizon=3"),
        (["--config", "demo", "--other_models", "bytes=x"], "serves one model"),
    ]:
        assert cli.main([*words, "--output_dir", str(tmp_path / "run")]) == 2
        assert said in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "run").exists()
