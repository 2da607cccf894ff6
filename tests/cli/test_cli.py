"""The command line: recipes set defaults, options override them, what nobody knows is refused by its nearest name."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from extracting import (
    ROOT,
    model_without_weights,
    options,
    random_texts,
    run,
    saved_model,
    shards,
    signal_at,
    write_jsonl,
    written,
)

from consistency_lens import cli
from consistency_lens.activations import Activations, CorpusArguments, ExtractArguments
from consistency_lens.auto import FAMILIES
from consistency_lens.cli.commands.explain import parse_positions
from consistency_lens.cli.parsing.options import help_of, options_of
from consistency_lens.cli.parsing.request import parse
from consistency_lens.cli.run_folder import without_folder
from consistency_lens.errors import BadInput


def write_recipe(folder: Path, **values: Any) -> str:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


def parts(words: list[str]) -> tuple[CorpusArguments, ExtractArguments]:
    request = cli.parse(words)
    return request.corpus, request.extraction


@pytest.mark.parametrize(
    "words",
    [[], ["extract", "--config", "demo"], ["extract", "--config", "demo", "--use_cpu"], ["--output_dir", "elsewhere"]],
)
def test_where_no_model_and_no_text_is_named_it_is_the_demo(words: list[str]) -> None:
    request, recipe = cli.parse(words), cli.load_recipe("demo")
    assert request.command == ("extract" if "extract" in words else "run")
    assert (request.subject.model_name_or_path, request.corpus.dataset_name) == ("demo", "demo")
    assert request.extraction.sites == recipe["sites"]
    assert request.extraction.output_dir == recipe["activations_dir"]
    assert request.values["output_dir"] == ("elsewhere" if "elsewhere" in words else None)
    assert request.use_cpu is ("--use_cpu" in words)


def test_of_extract_folder_and_seed_are_those_of_the_rows(tmp_path: Path) -> None:
    words = ["--config", "demo", "--output_dir", "here", "--seed", "5"]
    rows = cli.parse(["extract", *words]).extraction
    assert (rows.output_dir, rows.seed) == ("here", 5)
    whole = cli.parse(words)
    assert (whole.extraction.output_dir, whole.extraction.seed) == ("outputs/demo-activations", 0)
    assert (whole.values["output_dir"], whole.training(use_cpu=True).seed) == ("here", 5)
    assert cli.parse(["extract", *words, "--activations_dir", "there"]).extraction.output_dir == "there"
    old = write_recipe(tmp_path, output_dir="rows", seed=3)
    rows = cli.parse(["extract", "--config", old]).extraction
    assert (rows.output_dir, rows.seed) == ("rows", 3)
    both = write_recipe(tmp_path, output_dir="run", activations_dir="rows", seed=3, activations_seed=4)
    rows = cli.parse(["extract", "--config", both]).extraction
    assert (rows.output_dir, rows.seed) == ("rows", 4)


@pytest.mark.parametrize("text", ["a text", "true story", "it's 1"])
def test_a_text_behind_a_flag_is_a_text(text: str) -> None:
    request = cli.parse(["explain", "--lens", "x", "--json", text, "--positions=-1,3"])
    assert (request.words, request.explanation.json, request.explanation.positions) == ((text,), True, "-1,3")
    assert cli.parse(["explain", text, "--json", "false", "--lens", "x"]).explanation.json is False


@pytest.mark.parametrize(("given", "found"), [("3,5,-1", [3, 5, -1]), ("-2", [-2]), (" 1, 2", [1, 2])])
def test_positions(given: str, found: list[int]) -> None:
    assert parse_positions(given) == found and parse_positions(None) is None
    with pytest.raises(BadInput, match="positions='1,x'"):
        parse_positions("1,x")


def test_every_field_of_training_is_taken_and_checked(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, kl_weight=0.5, mse_weight="linear(1, 0.1, 100)", lr_scheduler_kwargs={"a": 1})
    training = cli.parse(["train", "--config", recipe, "--adam_beta2", "0.95", "--activation_checkpointing"])
    assert training.values["activation_checkpointing"] is True
    training = training.training(use_cpu=True)
    assert (training.kl_weight, training.mse_weight, training.adam_beta2) == ("0.5", "linear(1, 0.1, 100)", 0.95)
    assert training.lr_scheduler_kwargs == {"a": 1}
    request = cli.parse(["train", "--load_best_model_at_end", "--eval_strategy", "steps", "--save_strategy", "epoch"])
    with pytest.raises(BadInput, match="requires the save and eval strategy to match"):
        request.training(use_cpu=True)


@pytest.mark.parametrize("name", ["model_name_or_path", "dataset_name", "train_file"])
def test_where_one_is_named_it_is_not(name: str) -> None:
    request = cli.parse(["extract", f"--{name}", "mine"])
    subject, corpus, extraction = request.subject, request.corpus, request.extraction
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
    corpus, extraction = parts(["--config", recipe])
    assert corpus == CorpusArguments(keep_columns=["a", "b"], max_documents=7)
    wanted = {"batch_size": 3, "sites": ["embed", "resid_post.-1"], "test_fraction": 0.25, "resume": True}
    assert extraction == ExtractArguments(**wanted)
    more = ["--batch_size", "5", "--sites", "mlp_in.0", "--resume", "False", "--keep_columns=c"]
    for words in (["--config", recipe, *more], [*more, "--config", recipe]):
        corpus, extraction = parts(words)
        assert corpus.keep_columns == ["c"] and corpus.max_documents == 7
        assert extraction == ExtractArguments(batch_size=5, sites=["mlp_in.0"], test_fraction=0.25, resume=False)


def test_a_single_site_needs_no_list(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, sites="resid_post.2", keep_columns="facts", train_file="a.jsonl")
    corpus, extraction = parts(["--config", recipe])
    assert (extraction.sites, corpus.keep_columns, corpus.train_file) == (["resid_post.2"], ["facts"], ["a.jsonl"])


@pytest.mark.parametrize(
    ("words", "source"),
    [
        (["--train_file", "x.jsonl"], {"train_file": ["x.jsonl"]}),
        (["--train_file", "x.jsonl", "--text_column", "story"], {"train_file": ["x.jsonl"], "text_column": "story"}),
        (["--dataset_name", "mine"], {"dataset_name": "mine", "keep_columns": ["facts", "fact_positions"]}),
    ],
)
def test_texts_named_by_an_option_replace_those_of_a_recipe(words: list[str], source: dict[str, Any]) -> None:
    request = cli.parse(["--config", "demo", *words])
    subject, corpus, extraction = request.subject, request.corpus, request.extraction
    assert corpus == CorpusArguments(max_documents=6000, **source)
    assert subject.model_name_or_path == "demo" and extraction.sites == ["resid_post.2"], "the rest stays"


def test_a_dataset_named_by_an_option_replaces_the_file_of_a_recipe(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, train_file="a.txt", sample_by="paragraph", max_documents=7)
    corpus, _ = parts(["--config", recipe, "--dataset_name", "mine"])
    assert corpus == CorpusArguments(dataset_name="mine", max_documents=7)
    corpus, _ = parts(["--config", recipe, "--train_file", "b.txt"])
    assert corpus == CorpusArguments(train_file=["b.txt"], sample_by="paragraph", max_documents=7)


def test_another_dataset_has_no_configuration_of_the_one_in_the_recipe(tmp_path: Path) -> None:
    config = cli.load_recipe("qwen3_0.6b")["dataset_config"]
    for name, expected in [("mine", None), ("HuggingFaceFW/fineweb-edu", config)]:
        corpus, _ = parts(["--config", "qwen3_0.6b", "--dataset_name", name])
        assert (corpus.dataset_name, corpus.dataset_config) == (name, expected)
    part = write_recipe(tmp_path, dataset_config="en", dataset_revision="v1")
    corpus, _ = parts(["--config", part, "--dataset_name", "mine"])
    assert (corpus.dataset_config, corpus.dataset_revision) == ("en", "v1"), "a recipe without a name meant this one"


@pytest.mark.parametrize(
    ("recipe", "words", "resume", "overwrite"),
    [
        ({"resume": True}, ["--overwrite"], False, True),
        ({"overwrite": True}, ["--resume"], True, False),
        ({"resume": True}, ["--overwrite", "--resume"], True, True),
        ({"resume": True}, ["--overwrite", "False"], True, False),
        ({"resume": True}, [], True, False),
    ],
)
def test_an_option_beats_its_opposite_in_a_recipe(
    tmp_path: Path, recipe: dict[str, Any], words: list[str], resume: bool, overwrite: bool
) -> None:
    _, extraction = parts(["--config", write_recipe(tmp_path, **recipe), *words])
    assert (extraction.resume, extraction.overwrite) == (resume, overwrite)


def test_null_and_an_empty_list_set_nothing(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, sites=[], keep_columns=[], max_documents=None)
    corpus, extraction = parts(["--config", recipe])
    assert extraction == ExtractArguments() and corpus == CorpusArguments()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            "batch_sise: 3",
            "config='batch_sise': an unknown field. Did you mean 'batch_size'? --help_all lists all fields.",
        ),
        ("zzz: 3", "config='zzz': an unknown field. --help_all lists all fields."),
        ("config: demo", "config='config': an unknown field."),
        ("7: 3", "expected a mapping with at most 1048576 names, each a text."),
        ("- a\n- b", "it is not a mapping. Write one 'field: value' on each line."),
        ("a: [b", "Mend the YAML."),
        ("sites: [" + "a, " * 40_000 + "a]", "it has 120010 characters, and a recipe at most 65536"),
        ("batch_size: [1, 2]", "config='batch_size': the recipe gives it [1, 2]. Give a single value."),
        ("sites: {a: b}", "config='sites': the recipe gives it {'a': 'b'}. Give a single value."),
        (
            "dataset_config: no",
            "config='dataset_config': YAML reads False there, which is no text. Put the text in quo",
        ),
        ("revision: 0123456", "config='revision': YAML reads 42798 there, which is no text."),
        ("sites: [null]", "config='sites': YAML reads None there, which is no text."),
        ("train_file: [a.txt, 2024-01-01]", "config='train_file': YAML reads datetime.date(2024, 1, 1) there"),
        ("keep_columns: 7", "config='keep_columns': YAML reads 7 there"),
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


def test_the_launched_file_does_what_the_function_does(tmp_path: Path) -> None:
    words = ["extract", "--use_cpu", *options(model_name_or_path=model_without_weights())]
    code, said = run(words, tmp_path / "log")
    *_, last = said.splitlines()  # other packages may have said something as they were imported
    assert code == 2 and last.startswith("error: dataset_name=None") and "Traceback" not in said


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


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("../private/alice/x.jsonl", "x.jsonl"),
        ("--train_file=../private/alice/x.jsonl", "--train_file=x.jsonl"),
        ("data/../../private/x.jsonl", "x.jsonl"),
        ("~/private/x.jsonl", "x.jsonl"),
        ("~alice/x.jsonl", "x.jsonl"),
        ("~alice", "~"),
        ("--output_dir=/data/alice/rows/", "--output_dir=rows"),
        ("/", "/"),
        ("..", ".."),
        ("data/x.jsonl", "data/x.jsonl"),
        ("./data/../x.jsonl", "./data/../x.jsonl"),
        ("resid_post.2/3", "resid_post.2/3"),
        ("me/model..x", "me/model..x"),
        ("--resume", "--resume"),
        ("-1", "-1"),
    ],
)
def test_of_a_path_outside_the_folder_only_the_last_part_is_shown(word: str, shown: str) -> None:
    assert without_folder(word) == shown


def test_an_interrupted_run_says_so_and_goes_on_later(tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "texts.jsonl", random_texts(300, shortest=20))
    given = {"model_name_or_path": saved_model(), "train_file": corpus, "documents_per_shard": 10}

    def words(name: str, **more: Any) -> list[str]:
        return ["extract", "--use_cpu", *options(**given, output_dir=tmp_path / name, **more)]

    code, said = run(words("rows"), tmp_path / "log", signal_at, 100, str(tmp_path / "rows"), signal.SIGINT)
    assert code == 130 and "Traceback" not in said, said
    assert "interrupted: what is finished is kept, --resume goes on from there" in said
    assert not (tmp_path / "rows/extraction.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in shards(tmp_path / "rows")}
    assert len(kept) > 6, "more than the chunk at work"
    code, said = run(words("rows", resume=True), tmp_path / "log")
    assert code == 0, said
    code, said = run(words("whole"), tmp_path / "log")
    assert code == 0, said
    assert written(tmp_path / "rows") == written(tmp_path / "whole")
    same = [path for path, at in kept.items() if path.stat().st_mtime_ns == at]
    assert len(kept) - len(same) <= 3, "at most the chunk at work is made again"


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--text_column", "txt"], "error: text_column='txt'"),
        (["--batch_sise", "3"], "error: option='--batch_sise'"),
        (["--batch_size", "many"], "invalid int value"),
    ],
)
def test_of_two_processes_one_says_what_is_wrong(tmp_path: Path, more: list[str], said: str) -> None:
    corpus = write_jsonl(tmp_path / "texts.jsonl", random_texts(30))
    words = ["extract", "--use_cpu", *options(model_name_or_path=model_without_weights(), train_file=corpus), *more]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(ROOT / "run_lens.py")]
    done = subprocess.run(
        [sys.executable, *launcher, *words], capture_output=True, text=True, timeout=120, cwd=tmp_path, check=False
    )
    assert done.returncode != 0
    assert done.stderr.count(said) == 1, done.stderr


def be_second() -> None:
    os.environ["RANK"] = "1"


def test_what_only_another_process_finds_is_said_all_the_same(tmp_path: Path) -> None:
    code, said = run(["--batch_sise", "3"], tmp_path / "log", be_second)
    assert code == 2 and "option='--batch_sise'" in said


@pytest.mark.parametrize("family", FAMILIES)
def test_a_help_text_is_a_phrase_that_begins_with_its_noun(family: str) -> None:
    """No riddle: it does not begin with what it leans on (of, so many, the same), and it ends like a sentence."""
    options = options_of(family)
    leaning = re.compile(r"(Of|So|The same|As|That|Those|What|How|Whether|For)\b")
    for group in options.groups:
        for name, given in options.fields_of(group).items():
            said = help_of(name, given)
            if group != "training" or name not in options.inherited:
                assert said[:1].isupper() and said.rstrip().endswith((".", ")")), f"{name}: {said}"
                assert not leaning.match(said), f"{name}: {said}"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["evaluate", "--learning_rate=1"], "--learning_rate changes nothing in evaluate: it is read by run, train."),
        (
            ["extract", "--model_name_or_path=m", "--dataset_name=x", "--report_rows=9"],
            "--report_rows changes nothing in extract: it is read by run, evaluate.",
        ),
        (["answer", "--port=80"], "--port changes nothing in answer: it is read by serve."),
        (
            ["publish", "--dataset_name=x"],
            "--dataset_name changes nothing in publish: it is read by run, extract, train, explain",
        ),
        (["train", "--learning_rate=1"], ""),
    ],
)
def test_an_option_that_a_command_does_not_read_is_noted(words: list[str], said: str) -> None:
    notes = parse([*words, "--use_cpu"]).notes
    assert any(said in note for note in notes) if said else not notes


def test_a_recipe_has_options_of_all_commands(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, learning_rate=0.5, report_rows=9, output_dir="made")
    request = parse(["evaluate", "--lens=x", "--activations=y", "--config", recipe])
    assert (request.values["learning_rate"], request.values["report_rows"]) == (0.5, 9) and not request.notes
    assert parse(["extract", "--model_name_or_path=m", "--dataset_name=x", "--seed=3"]).values["activations_seed"] == 3


def test_a_report_of_a_wire_may_draw_its_answers_with_another_seed() -> None:
    request = parse(["evaluate", "--family=soft", "--lens=x", "--activations=y", "--first_top_p=0.9", "--seed=3"])
    assert request.family.report_options({})["settings"].seed == 3
