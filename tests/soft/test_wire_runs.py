"""`run_lens.py` with a wire for two models, from texts to a report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from extracting import random_texts, saved_model
from lens_runs import tiny_lens
from passage_models import passage_models

from consistency_lens import cli
from consistency_lens.auto import AutoLens
from consistency_lens.cli.parsing.arguments import SubjectArguments
from consistency_lens.errors import BadInput
from consistency_lens.frozen import FrozenLM
from consistency_lens.soft.extraction import WireDataOptions
from consistency_lens.soft.modeling import LatentWire
from consistency_lens.soft.options import WireOptions


def recipe_in(folder: Path) -> Path:
    other, lm = folder / "bytes", passage_models()["bytes"]
    lm.model.save_pretrained(other)
    lm.tokenizer.save_pretrained(other)
    texts = folder / "texts.txt"
    texts.write_text("\n".join(random_texts(60, shortest=16, longest=24)))
    record = {
        "family": "soft",
        "model_name_or_path": str(saved_model()),
        "other_models": [f"bytes={other}"],
        "train_file": [str(texts)],
        "slots": 3,
        "compressor_layers": 1,
        "bits": 8,
        "modes": ["recall"],
        "activations_dir": str(folder / "passages"),
        "passage_words": 10,
        "prompt_words": 2,
        "answer_words": 2,
        "reconstruction_share": 0.0,  # whole words have no token for its opening
        "validation_fraction": 0.2,
        "test_fraction": 0.2,
        "max_steps": 3,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "eval_strategy": "steps",
        "eval_steps": 3,
        "eval_rows": 4,
        "report_batch_size": 4,
        "report_to": "none",
        "use_cpu": True,
    }
    path = folder / "wire.yaml"
    path.write_text(yaml.safe_dump(record))
    return path


def test_a_whole_run_from_text_to_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, run = recipe_in(tmp_path), tmp_path / "run"
    assert cli.main(["--config", str(recipe), "--output_dir", str(run)]) == 0, capsys.readouterr().err
    report = json.loads((run / "report/report.json").read_text())
    assert {"lens", "text", "none", "first", "shuffled"} <= report["parts"]["all"]["numbers"].keys()
    assert "base: " in report["verdict"] and "bytes: " in report["verdict"]
    card = (run / "lens/README.md").read_text()
    assert "3 vectors of 32 numbers, 8 bits each" in card and "nats per answer token" in card
    assert all(f"seconds_ratio/{name}" in card.replace("\\", "") for name in ("base", "bytes"))
    models = {"base": str(saved_model()), "bytes": str(tmp_path / "bytes")}
    lens = AutoLens.from_pretrained(run, subject=models)
    assert isinstance(lens, LatentWire) and lens.config.modes == ["recall"] and lens.config.names == ["base", "bytes"]


@pytest.mark.slow
def test_a_model_is_added_to_a_wire_that_stays_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, run, more = recipe_in(tmp_path), tmp_path / "run", tmp_path / "more"
    short = ["--report_rows", "2", "--report_batch_size", "2", "--max_steps", "2"]
    assert cli.main(["--config", str(recipe), "--output_dir", str(run), *short]) == 0, capsys.readouterr().err
    third, lm = tmp_path / "third", passage_models()["pieces"]
    lm.model.save_pretrained(third)
    lm.tokenizer.save_pretrained(third)
    record = yaml.safe_load(recipe.read_text())
    own = {"slots", "compressor_layers", "bits", "modes"}  # which the wire has
    added = {name: value for name, value in record.items() if name not in own}
    added |= {"add_to": str(run / "lens"), "activations_dir": str(tmp_path / "again")}
    added["other_models"] = [*record["other_models"], f"third={third}"]
    recipe.write_text(yaml.safe_dump(added))
    assert cli.main(["--config", str(recipe), "--output_dir", str(more), *short]) == 0, capsys.readouterr().err
    places = {"base": str(saved_model()), "bytes": str(tmp_path / "bytes"), "third": str(third)}
    before = AutoLens.from_pretrained(run, subject={name: places[name] for name in ("base", "bytes")})
    after = AutoLens.from_pretrained(more, subject=places)
    assert after.config.names == ["base", "bytes", "third"] and after.config.slots == 3
    wire = before.to_bytes("w1 w2 w3 w4 w5 w6")
    assert after.to_bytes("w1 w2 w3 w4 w5 w6") == wire
    assert isinstance(after.answer(wire, "w1", "third", max_new_tokens=2), str)
    assert after.answer(wire, "w1", "bytes", max_new_tokens=2) == before.answer(wire, "w1", "bytes", max_new_tokens=2)
    said = cli.main(["--config", str(recipe), "--output_dir", str(tmp_path / "no"), "--bits", "4", *short])
    assert said == 2 and "bits=4" in (error := capsys.readouterr().err) and "has it already" in error


@pytest.mark.slow
def test_an_evaluation_beside_another_wire_and_a_text_lens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With models that take turns."""
    recipe, run = recipe_in(tmp_path), tmp_path / "run"
    words = ["--config", str(recipe), "--output_dir", str(run), "--report_rows", "2", "--report_batch_size", "2"]
    assert cli.main(words) == 0, capsys.readouterr().err
    models = {"base": str(saved_model()), "bytes": str(tmp_path / "bytes")}
    again = ["evaluate", "--family", "soft", "--lens", str(run), "--activations", str(tmp_path / "passages")]
    again += ["--model_name_or_path", models["base"], "--other_models", f"bytes={models['bytes']}", "--sequential"]
    again += ["--report_rows", "2", "--report_batch_size", "2", "--output_dir", str(tmp_path / "again"), "--use_cpu"]
    tiny_lens(FrozenLM.from_pretrained(saved_model())).save_pretrained(tmp_path / "words")
    named = ["--other_wire", str(run), "--text_lens", str(tmp_path / "words"), "--first_temperature", "1.5"]
    assert cli.main([*again, *named]) == 0, capsys.readouterr().err
    report = json.loads((tmp_path / "again/report/report.json").read_text())
    assert "spelled" in report["traits"] and "text lens of base" in report["about"]["listings"][-1]["title"]
    assert "the first token drawn (temperature 1.5, seed 42)" in report["remarks"][0]
    numbers = report["parts"]["all"]["numbers"]
    assert numbers["other_wire"]["kl"] == numbers["lens"]["kl"] != numbers["untrained"]["kl"]


def test_options_are_refused_by_name() -> None:
    with pytest.raises(BadInput, match="sites"):
        WireDataOptions(sites=["resid_post.1"])
    with pytest.raises(BadInput, match="passage_words"):
        WireDataOptions(passage_words=3)
    with pytest.raises(BadInput, match="sequential=True: a device map says where all models lie"):
        SubjectArguments(sequential=True, device_map="auto")
    assert WireOptions().settings()["ratio"] == 2 and WireOptions(slots=4).settings()["ratio"] is None
