"""The card of a lens in training: rewritten at each checkpoint, honest about what is not known, kind to what a person
has added, with a snippet that runs."""

from __future__ import annotations

import ast
import dataclasses
import io
import json
import re
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from extracting import extract_to, random_texts, saved_model
from huggingface_hub import ModelCard
from lens_runs import arguments, tiny_lens, trainer_of
from tiny import tiny_lm

from consistency_lens.activations import Activations
from consistency_lens.base.modeling import LensModel
from consistency_lens.base.saving.lens_card import (
    TrainingRecord,
    example_of,
    facts_of,
    findable,
    printed,
    usage,
    watched,
    write_lens_card,
)
from consistency_lens.card import model_card
from consistency_lens.errors import BadInput
from consistency_lens.finding import is_demo
from consistency_lens.frozen import FrozenLM, Provenance
from consistency_lens.text.card import TEXT_CARD
from consistency_lens.text.configuration import ConsistencyLensConfig
from consistency_lens.text.trainer import ConsistencyLensTrainer

SAVING = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def of_origin(**changes: Any) -> Provenance:
    return dataclasses.replace(tiny_lens(tiny_lm()).config.origin, **changes)


def config_of(**changes: Any) -> ConsistencyLensConfig:
    config = tiny_lens(tiny_lm()).config
    config.provenance = of_origin(**changes).to_dict()
    return config


def numbers_of(card: str) -> dict[str, float]:
    """The tables of names and values of a card, whose names are escaped in Markdown."""
    found = re.findall(r"^\| ([a-z]\S*) \| (-?\d[\d.]*) \|", card.replace("\\", ""), re.MULTILINE)
    return {name: float(value) for name, value in found}


def test_each_checkpoint_has_a_card_with_what_is_known_by_then(tmp_path: Path) -> None:
    run = tmp_path / "my-run"
    trainer = trainer_of(run, ema_decay=0.9, **SAVING)
    trainer.command = "run_lens.py train --token ***"
    trainer.train()
    for step, steps in ((2, [2]), (4, [2, 4])):
        folder = run / f"checkpoint-{step}"
        card, record = ModelCard.load(folder / "README.md"), TrainingRecord.load(folder)
        assert record is not None and [row["step"] for row in record.history] == steps
        assert f"at step {step} of 4" in card.text and "Without intervals and controls" in card.text
        results = numbers_of(card.text)
        known = {name: value for name, value in record.history[-1].items() if name != "step"}
        assert {name: results[name] for name in known} == pytest.approx(known, rel=2e-3, abs=6e-4)
        logged = next(e for e in trainer.state.log_history if e["step"] == step and "eval_fve" in e)
        assert known["fve"] == logged["eval_fve"] != logged["eval_ema_fve"]
        assert (record.cost.rows, record.cost.sessions) == (6 * step, 1) and record.cost.tokens > 6 * step
    text = (run / "README.md").read_text("utf-8")
    assert text == (run / "checkpoint-4" / "README.md").read_text("utf-8")
    for words in [
        *["# my-run", "resid\\_post.1", "at most 5 tokens of text", "trained parameters |", "| CPU hours |"],
        *["| peak memory |", "tokens of context per second", "run_lens.py train --token", "| steps | 4 |"],
        *["estimator: policy", "license: unknown", "from a local folder", "| train |", "No document is in two"],
    ]:
        assert words in text, words
    assert str(tmp_path) not in text and "base_model" not in text
    trainer.write_card(run / "average", prefix="eval_ema_")
    average = numbers_of((run / "average" / "README.md").read_text("utf-8"))
    assert average["fve"] == pytest.approx(logged["eval_ema_fve"], rel=2e-3, abs=6e-4)
    assert average["fve"] != numbers_of(text)["fve"]


@pytest.mark.parametrize(("kind", "relation"), [("full", "finetune"), ("lora", "adapter"), ("projections", "adapter")])
def test_the_hub_is_told_how_a_lens_relates_to_its_subject(kind: str, relation: str) -> None:
    config = tiny_lens(tiny_lm(), trainable=kind).config
    config.provenance = of_origin(model_id="meta/llama", weights=f"commit:{COMMIT}").to_dict()
    card = ModelCard(model_card(facts_of(config, TrainingRecord(name="tiny"))))
    found = card.data.to_dict()
    assert (found["base_model"], found["base_model_relation"]) == ("meta/llama", relation)


def test_what_a_person_adds_survives_the_rest_of_the_training(tmp_path: Path) -> None:
    trainer_of(tmp_path, **SAVING, max_steps=2).train()
    card = tmp_path / "README.md"
    mine = card.read_text("utf-8").replace("library_name", "language: en\nlibrary_name").replace("## Limits", "mine?")
    card.write_text(mine.replace("<!-- generated: use -->", "By hand: try it.\n\n<!-- generated: use -->"), "utf-8")
    trainer = trainer_of(tmp_path, **SAVING, max_steps=4)
    trainer.train(resume_from_checkpoint=True)
    for folder in (tmp_path, tmp_path / "checkpoint-4"):
        found = ModelCard.load(folder / "README.md")
        assert "By hand: try it.\n\n<!-- generated: use -->" in found.text and found.data.to_dict()["language"] == "en"
        assert "at step 4 of 4" in found.text and "mine?" not in found.text and "## Limits" in found.text
    record = TrainingRecord.load(tmp_path)
    assert record is not None and (record.cost.sessions, record.cost.rows) == (2, 24)
    trainer.create_model_card(model_name="transformers gives one")
    assert "By hand: try it." in card.read_text("utf-8")


def test_a_run_elsewhere_takes_the_words_of_the_checkpoint_it_goes_on_from(tmp_path: Path) -> None:
    trainer_of(tmp_path / "a", **SAVING, max_steps=2).train()
    checkpoint = tmp_path / "a" / "checkpoint-2"
    with (checkpoint / "README.md").open("a", encoding="utf-8") as card:
        card.write("By hand.")
    trainer_of(tmp_path / "b", **SAVING).train(resume_from_checkpoint=str(checkpoint))
    for folder in (tmp_path / "b", tmp_path / "b" / "checkpoint-4"):
        assert (folder / "README.md").read_text("utf-8").endswith("By hand.")


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a frozen model and a run lie beside each other."""
    place = tmp_path_factory.mktemp("place")
    (place / "tiny-llama").symlink_to(saved_model())
    subject = FrozenLM.from_pretrained(place / "tiny-llama")
    lens = tiny_lens(subject)
    extract_to(place / "rows", random_texts(40, shortest=8, longest=20), subject, continuation_length=4)
    rows = Activations.load(place / "rows")
    trainer = ConsistencyLensTrainer(lens, arguments(place / "run"), rows, frozen=subject)
    lens.save_pretrained(place / "run" / "lens")
    trainer.write_card(place / "run" / "lens")
    return place


def snippet(card: Path) -> str:
    return card.read_text("utf-8").partition("```python\n")[2].partition("```")[0]


def test_the_snippet_runs_as_it_stands(local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(local)
    code = snippet(local / "run" / "lens" / "README.md")
    assert 'AutoLens.from_pretrained("run", subject="tiny-llama")' in code
    said, names = io.StringIO(), {}
    with redirect_stdout(said):
        exec(code, names)
    assert isinstance(names["lens"], LensModel)
    assert said.getvalue().strip() == printed(names["lens"], names["text"])
    assert len(said.getvalue().splitlines()) == 3 and "(KL " in said.getvalue()


@pytest.mark.parametrize("text", ['say "hi" \\ there\x00', "``` <!-- /generated --> <b>", "ünï " * 60, "x" * 300])
def test_a_snippet_quotes_any_text(text: str) -> None:
    code = usage("me/lens", config_of(), text)
    (line,) = [node for node in code.split("lens = ")[1].split("for row")[:1]]
    names: dict[str, Any] = {}
    exec("text = " + line.partition("text = ")[2], names)
    assert names["text"] == text
    assert "<!--" not in code and "```" not in code and "subject=" in code


def test_a_snippet_quotes_any_name() -> None:
    name = 'x"); import os; os.abort()  # ``` <!-- /generated -->'
    code = usage(name, config_of(model_id=name), "a b c")
    call = next(line for line in code.splitlines() if line.startswith("lens = "))
    given = ast.parse(call).body[0].value
    assert [ast.literal_eval(part) for part in (given.args[0], given.keywords[0].value)] == [name, name]
    assert "```" not in code and "<!--" not in code


def test_who_has_to_name_the_subject() -> None:
    ours = "subject-0123456789abcdef"
    assert is_demo(ours) and findable(of_origin(model_id=ours)) and not findable(of_origin())
    assert findable(of_origin(weights=f"commit:{COMMIT}")) and not findable(of_origin(weights="commit:None"))
    assert 'from_pretrained("me/lens")\n' in usage("me/lens", config_of(model_id=ours), "a b c")


def test_a_subject_of_the_hub_is_the_base_model() -> None:
    config = tiny_lens(tiny_lm()).config
    config.provenance = of_origin(model_id="someone/subject", weights=f"commit:{COMMIT}").to_dict()
    record = TrainingRecord(name="me/lens", corpus={"corpus": "someone/texts", "commit": "abc", "split": "train"})
    facts = facts_of(config, record)
    assert facts.metadata["base_model"] == "someone/subject" and facts.metadata["datasets"] == ["someone/texts"]
    assert facts.name == "lens" and facts.license == "unknown", "offline, and never asked before"
    local = facts_of(config, dataclasses.replace(record, corpus={"corpus": "texts.jsonl", "files": "sha256:0"}))
    assert "datasets" not in local.metadata


def test_a_lens_without_a_record_has_a_card_all_the_same(tmp_path: Path) -> None:
    assert TrainingRecord.load(tmp_path) is None
    text = model_card(facts_of(tiny_lens(tiny_lm()).config, TrainingRecord(name="old")))
    assert "trained elsewhere" in text and "## Training" not in text and "## Data" not in text


def test_a_record_is_read_again_also_from_a_later_version(tmp_path: Path) -> None:
    record = trainer_of(tmp_path).record()
    write_lens_card(tmp_path, tiny_lens(tiny_lm()).config, record)
    assert TrainingRecord.load(tmp_path) == record
    stored = json.loads((tmp_path / "training.json").read_text())
    (tmp_path / "training.json").write_text(json.dumps(stored | {"of_a_later_version": 1}))
    assert TrainingRecord.load(tmp_path) == record


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"name": "x", "counts": {}, "cost": {"of_nobody": 1}}'])
def test_a_damaged_record_is_refused_by_name(content: str, tmp_path: Path) -> None:
    (tmp_path / "training.json").write_text(content)
    with pytest.raises(BadInput, match=r"training\.json"):
        TrainingRecord.load(tmp_path)


@pytest.mark.parametrize("corpus", [{"commit": "x"}, {"corpus": 3}])
def test_a_record_whose_texts_have_no_name_is_refused(corpus: dict[str, Any], tmp_path: Path) -> None:
    TrainingRecord(name="x", corpus=corpus).save(tmp_path)
    with pytest.raises(BadInput, match=r"training\.json: corpus"):
        TrainingRecord.load(tmp_path)
    TrainingRecord(name="x").save(tmp_path)
    assert TrainingRecord.load(tmp_path) == TrainingRecord(name="x"), "of rows that say nothing of their texts"


def test_the_history_is_what_evaluations_found() -> None:
    log = [
        {"step": 1, "loss": 3.0},
        {"step": 2, "eval_kl_recovered": 0.1, "eval_ema_kl_recovered": 0.2, "eval_nobody_defined": 9},
        {"step": 2, "eval_fve": 0.5},
        {"step": 2, "eval_kl_recovered": 0.3, "eval_fve": 0.5},
    ]
    assert watched(log) == [{"step": 2, "kl_recovered": 0.3, "fve": 0.5}]
    assert watched([{"step": 1, "eval_text_nll": 2.0}]) == [], "which other families do not have"
    assert watched([{"step": 1, "eval_text_nll": 2.0}], names=TEXT_CARD.watched) == [{"step": 1, "text_nll": 2.0}]
    assert watched(log, "eval_ema_") == [{"step": 2, "kl_recovered": 0.2}] and watched([]) == []
    history = [{"step": s, "kl_recovered": s / 100} for s in range(1, 41)]
    shown = facts_of(tiny_lens(tiny_lm()).config, TrainingRecord(name="x", history=history)).history
    assert len(shown) == 9 and shown[-1]["step"] == 40


def test_the_example_is_neither_a_word_nor_a_page() -> None:
    tokenizer = tiny_lm().tokenizer
    rows = [{"input_ids": [1] + [5] * n} for n in (2, 500, 20, 30)]
    assert example_of(rows, tokenizer) == " ".join(["w1"] * 20)
    assert len(example_of(rows[1:2], tokenizer).split()) == 63 and example_of([], tokenizer) == ""
