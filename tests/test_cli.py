"""The command line: recipes set defaults, options override them, what nobody knows is refused by its nearest name."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from extracting import ROOT, model_without_weights, options, random_texts, run, saved_model, write_jsonl

from consistency_lens import cli
from consistency_lens.activations import Activations, CorpusArguments, ExtractArguments
from consistency_lens.errors import BadInput

NAMES = {f.name for arguments in cli.ARGUMENTS for f in fields(arguments)}


def write_recipe(folder: Path, **values: Any) -> str:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


@pytest.mark.parametrize("name", cli.recipe_names())
def test_every_recipe_parses_and_names_known_fields(name: str) -> None:
    record = yaml.safe_load((ROOT / f"consistency_lens/recipes/{name}.yaml").read_text())
    assert record and set(record) <= NAMES
    assert cli.load_recipe(name) == record
    parsed = cli.parse(["extract", "--config", name])
    found = {f.name: part.__dict__[f.name] for part in parsed[1:] for f in fields(part)}
    assert {key: found[key] for key in record} == record
    assert not set(fields_changed(parsed)) - set(record), "what a recipe does not say stays as it is"


def fields_changed(parsed: tuple[Any, ...]) -> list[str]:
    return [
        f.name for part in parsed[1:] for f in fields(part) if part.__dict__[f.name] != type(part)().__dict__[f.name]
    ]


def test_there_are_recipes() -> None:
    assert {"demo", "gpt2"} <= set(cli.recipe_names())


@pytest.mark.parametrize("words", [[], ["extract"], ["extract", "--use_cpu"], ["--output_dir", "elsewhere"]])
def test_where_no_model_and_no_text_is_named_it_is_the_demo(words: list[str]) -> None:
    command, subject, corpus, extraction, run_arguments = cli.parse(words)
    recipe = cli.load_recipe("demo")
    assert command == "extract"
    assert (subject.model_name_or_path, corpus.dataset_name) == ("demo", "demo")
    assert extraction.sites == recipe["sites"]
    assert extraction.output_dir == ("elsewhere" if "elsewhere" in words else recipe["output_dir"])
    assert run_arguments.use_cpu is ("--use_cpu" in words)


@pytest.mark.parametrize("name", ["model_name_or_path", "dataset_name", "train_file"])
def test_where_one_is_named_it_is_not(name: str) -> None:
    _, subject, corpus, extraction, _ = cli.parse(["extract", f"--{name}", "mine"])
    found = (subject.model_name_or_path, corpus.dataset_name, (corpus.train_file or [None])[0])
    assert sorted(filter(None, found)) == ["mine"]
    assert extraction == ExtractArguments()


def test_a_recipe_sets_defaults_and_options_override_them(tmp_path: Path) -> None:
    recipe = write_recipe(
        tmp_path,
        batch_size=3,
        sites=["embed", "resid_post.-1"],
        keep_columns=["a", "b"],
        test_fraction=0.25,
        resume=True,
        max_documents=7,
        streaming=False,
    )
    _, _, corpus, extraction, _ = cli.parse(["--config", recipe])
    assert corpus == CorpusArguments(keep_columns=["a", "b"], max_documents=7)
    wanted = {"batch_size": 3, "sites": ["embed", "resid_post.-1"], "test_fraction": 0.25, "resume": True}
    assert extraction == ExtractArguments(**wanted)
    more = ["--batch_size", "5", "--sites", "mlp_in.0", "--resume", "False", "--keep_columns=c"]
    for words in (["--config", recipe, *more], [*more, "--config", recipe]):
        _, _, corpus, extraction, _ = cli.parse(words)
        assert corpus.keep_columns == ["c"] and corpus.max_documents == 7
        assert extraction == ExtractArguments(batch_size=5, sites=["mlp_in.0"], test_fraction=0.25, resume=False)


def test_a_single_site_needs_no_list(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, sites="resid_post.2", keep_columns="facts", train_file="a.jsonl")
    _, _, corpus, extraction, _ = cli.parse(["--config", recipe])
    assert (extraction.sites, corpus.keep_columns, corpus.train_file) == (["resid_post.2"], ["facts"], ["a.jsonl"])


def test_null_and_an_empty_list_set_nothing(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, sites=[], keep_columns=[], max_documents=None)
    _, _, corpus, extraction, _ = cli.parse(["--config", recipe])
    assert extraction == ExtractArguments() and corpus == CorpusArguments()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            "batch_sise: 3",
            "config='batch_sise': an unknown field. Did you mean 'batch_size'? --help lists all fields.",
        ),
        ("zzz: 3", "config='zzz': an unknown field. --help lists all fields."),
        ("config: demo", "config='config': an unknown field."),
        ("7: 3", "config=7: an unknown field."),
        ("- a\n- b", "it is not a mapping. Write one 'field: value' on each line."),
        ("a: [b", "Mend the YAML."),
        ("batch_size: [1, 2]", "config='batch_size': the recipe gives it [1, 2]. Give a single value."),
        ("sites: {a: b}", "config='sites': the recipe gives it {'a': 'b'}. Give a single value."),
    ],
)
def test_a_recipe_that_cannot_work(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "recipe.yaml").write_text(content)
    with pytest.raises(BadInput) as caught:
        cli.parse(["--config", str(tmp_path / "recipe.yaml")])
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"storage_dtype": "float64"}, ("--storage_dtype", "invalid choice: 'float64'")),
        ({"dtype": "float8"}, ("--dtype", "invalid choice: 'float8'")),
        ({"sample_by": "word"}, ("--sample_by", "invalid choice: 'word'")),
        ({"batch_size": "many"}, ("--batch_size", "invalid int value: 'many'")),
        ({"max_documents": 2.5}, ("--max_documents", "invalid int value: '2.5'")),
        ({"resume": "maybe"}, ("--resume", "maybe")),
    ],
)
def test_a_value_is_checked_wherever_it_comes_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], values: dict[str, Any], said: tuple[str, str]
) -> None:
    words = [f"--{name}={value}" for name, value in values.items()]
    for given in (["--config", write_recipe(tmp_path, **values)], words):
        with pytest.raises(SystemExit) as caught:
            cli.main(given)
        shown = capsys.readouterr().err
        assert caught.value.code == 2 and all(part in shown for part in said)


def test_help() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "run_lens.py", "--help"],
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "100"},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0 and done.stderr == ""
    assert all(f"--{name}" in done.stdout for name in NAMES | {"config"})
    assert all(f.metadata["help"] for arguments in cli.ARGUMENTS for f in fields(arguments))
    assert "accelerate launch run_lens.py" in done.stdout and "demo, gpt2" in done.stdout


def test_the_launched_file_does_what_the_function_does(tmp_path: Path) -> None:
    words = ["extract", "--use_cpu", *options(model_name_or_path=model_without_weights())]
    code, said = run(words, tmp_path / "log")
    assert code == 2 and said.startswith("error: dataset_name=None") and "Traceback" not in said


def test_a_whole_run_says_what_it_costs_and_what_came_out(tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "texts.jsonl", random_texts(100))
    given = {"model_name_or_path": saved_model(), "sites": "resid_post.1", "min_position": 4}
    equals = [f"--train_file={corpus}", f"--output_dir={tmp_path / 'rows'}"]
    code, said = run(["extract", "--use_cpu", *options(**given), *equals], tmp_path / "log")
    assert code == 0, said
    assert "The bill" in said and "on disk" in said and "tokens/s" in said and "attention sdpa" in said
    found = Activations.load(tmp_path / "rows")
    assert f"{len(found.splits['train']):,}" in said and "reading tiny-llama at resid_post.1, in one process" in said
    bill = int(said.split("about ")[1].split()[0].replace(",", ""))
    assert bill == sum(map(len, found.splits.values())), "the sample was the whole corpus"


@pytest.mark.parametrize("form", ["{0} {1}", "{0}={1}"])
def test_the_card_says_the_command_without_a_folder_of_this_machine(tmp_path: Path, form: str) -> None:
    write_jsonl(tmp_path / "texts.jsonl", random_texts(60))
    (tmp_path / "corpus").mkdir()
    (tmp_path / "texts.jsonl").rename(tmp_path / "corpus" / "train.jsonl")
    given = {"model_name_or_path": saved_model(), "dataset_name": tmp_path / "corpus", "output_dir": tmp_path / "rows"}
    words = [word for name, value in given.items() for word in form.format(f"--{name}", value).split(" ")]
    code, said = run(["extract", "--use_cpu", "--min_position", "4", *words], tmp_path / "log")
    assert code == 0, said
    for name in ("README.md", "extraction.json"):
        text = (tmp_path / "rows" / name).read_text()
        assert str(tmp_path) not in text and str(saved_model().parent) not in text and "/tmp" not in text
    card = (tmp_path / "rows" / "README.md").read_text()
    assert "run_lens.py extract --use_cpu --min_position 4" in card
    assert form.format("--model_name_or_path", "tiny-llama") in card and "source_datasets" not in card
    assert form.format("--output_dir", "rows") in card
