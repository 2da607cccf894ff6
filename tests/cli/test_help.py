"""What `--help` prints: of each command its options, in groups, at once."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from extracting import ROOT

from consistency_lens import cli
from consistency_lens.auto import FAMILIES
from consistency_lens.cli.help import making
from consistency_lens.cli.help.page import page_for
from consistency_lens.cli.parsing.commands import COMMANDS, COMMON
from consistency_lens.cli.parsing.options import USUAL, help_of, options_of
from consistency_lens.cli.parsing.recipes import recipe_names

SLOW = ("torch", "transformers", "datasets", "accelerate", "pyarrow", "numpy", "rich")


def page(*words: str) -> str:
    said = page_for([*words, "--help"])
    assert said is not None
    return said


def shown(said: str) -> set[str]:
    return set(re.findall(r"^  --(\w+)", said, re.MULTILINE))


def test_the_file_says_what_the_options_are() -> None:
    assert making.FILE.read_text("utf-8") == making.made(), "run python -m consistency_lens.cli.help.making"


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["answer", "-h"], ["--help_all"], ["--version"]])
def test_a_page_imports_nothing_slow(words: list[str]) -> None:
    code = (
        "import json, sys; from consistency_lens.cli import main; code = main(sys.argv[1:]); "
        "print(json.dumps([code, sorted(sys.modules)]))"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True, cwd=ROOT)
    code, modules = json.loads(done.stdout.splitlines()[-1])
    assert code == 0 and not done.stderr and not set(SLOW) & set(modules)


def test_the_front_page_names_commands_and_recipes_on_one_screen() -> None:
    said = page()
    own = [name for family in FAMILIES for name in options_of(family).run.uses]
    assert all(re.search(rf"^  {name} ", said, re.MULTILINE) for name in [*COMMANDS, *own])
    assert all(name in said for name in recipe_names()) and len(said.splitlines()) <= 30


def test_a_page_shows_the_options_of_its_command() -> None:
    explain = shown(page("explain"))
    assert {"lens", "positions", "output", "json", "dataset_name", "config"} <= explain
    assert not {"learning_rate", "code_length", "gpu_memory", "report_rows", "repo_id"} & explain
    assert shown(page("publish")) == {
        "config",
        "lens",
        "repo_id",
        "private",
        "space",
        "hub_token",
        "hub_dataset_id",
        "revision",
    }
    assert shown(page("env")) == {"config", "json"}
    assert {"ablate", "amplify"} <= shown(page("explain", "--family", "sparse")) and "ablate" not in explain
    assert "context_documents" not in shown(page("explain", "--config", "sparse_demo"))
    assert {"receiver", "max_new_tokens"} <= shown(page("answer")) and "F.wire" in page("answer")
    assert {"to", "subfolder"} <= shown(page("export")), "of the family that has it"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_option_stands_on_a_page(family: str) -> None:
    options = options_of(family)
    commands = (*COMMON[1:], *options.run.commands, *options.run.uses)
    whole = [
        shown(page_for([*words, "--help_all", f"--family={family}"]) or "") for words in ([], *([c] for c in commands))
    ]
    known = {name for name in options.names if name not in options.inherited or name in USUAL} - set(
        options.run.unused
    )
    assert known <= whole[0]
    assert known - set.union(*whole[1:]) <= {"activations_dir", "activations_seed", *options.fields_of("export")}
    usual = shown(page("train", f"--family={family}"))
    training = set(options.fields_of("training"))
    assert (
        usual & training == options.first
        and len((options.first - options.inherited) & set(options.training.usual)) <= 15
    )
    assert all(help_of(name, field) for group in options.groups for name, field in options.fields_of(group).items())


@pytest.mark.parametrize("columns", ["80", "120"])
def test_a_page_fits_the_terminal(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    for words in ([], ["train"], ["explain"], ["serve"]):
        assert max(map(len, page(*words).splitlines())) <= int(columns)


def test_what_is_no_command_has_no_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert page_for(["explian", "--help"]) is None and page_for(["explain", "--lens", "x"]) is None
    assert cli.main(["explian", "--help"]) == 2
    assert "Did you mean 'explain'?" in capsys.readouterr().err


def test_one_of_several_processes_prints_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert cli.main(["train", "--help"]) == 0 and capsys.readouterr().out == ""
