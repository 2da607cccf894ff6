"""What a newcomer meets first: names of the command, its environment, where a run is found, a path that is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from extracting import ROOT

from consistency_lens import AutoLens, BadInput, cli
from consistency_lens.cli import ending, exploring
from consistency_lens.cli.parsing.recipes import recipe_names
from consistency_lens.cli.parsing.request import Request


def test_the_package_installs_a_command() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["scripts"] == {"consistency-lens": "consistency_lens.cli:main"} and callable(cli.main)


def test_version_and_environment(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("consistency-lens ")
    assert cli.main(["env", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["torch"] == torch.__version__ and facts["flash_attn"]
    assert cli.main(["env"]) == 0
    assert f"torch             {torch.__version__}\n" in capsys.readouterr().out


def test_the_module_is_the_command() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "consistency_lens", "--version"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert said.stdout.startswith("consistency-lens ")


def test_the_skill_goes_where_agents_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    for options, folder in (([], ".agents/skills"), (["--to", "mine"], "mine")):
        assert cli.main(["skill", *options]) == 0
        written = Path(folder, "consistency-lens/SKILL.md")
        assert capsys.readouterr().out == f"{written}\n"
        assert written.read_bytes() == (ROOT / "consistency_lens/SKILL.md").read_bytes()
    assert cli.main(["skill", "--to", "file"]) == 2
    assert "to='file': File exists" in capsys.readouterr().err.replace("Not a directory", "File exists")


def test_the_page_is_a_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gradio", reason="the Space needs the extra 'space'")
    started = subprocess.run(
        [sys.executable, "-m", "consistency_lens", "explore", "--lens", "./none"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert started.returncode == 1 and "there is no such folder" in started.stderr
    started_with: list[list[str]] = []

    def instead(_program: str, words: list[str], around: dict[str, str]) -> None:
        started_with.append([*words, around["HF_TOKEN"]])

    monkeypatch.setattr(exploring.os, "execve", instead)
    others = ["--model_name_or_path", "./a", "--other_models", "right=./b", "--hub_token", "mine"]
    assert cli.main(["explore", "--family", "soft", "--lens", "./none", *others]) == 0
    assert started_with[0][2:] == ["--lens", "./none", "--subject", "base=./a", "right=./b", "mine"]
    monkeypatch.setattr(exploring, "SPACE", ROOT / "docs")
    assert cli.main(["explore"]) == 2
    assert "an installed package does not bring the page along" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["extract", "plan"])
def test_a_command_that_is_about_nothing_begins_nothing(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command]) == 2
    said = capsys.readouterr().err
    assert f"{command} needs to know what it is about" in said and all(name in said for name in recipe_names())


def run_folder(place: Path) -> Path:
    (place / "lens").mkdir(parents=True)
    (place / "lens" / "config.json").write_text("{}")
    return place


def test_a_path_that_is_not_there_is_said_to_be_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run_folder(Path("outputs/demo_1"))
    for place in ("outputs/demo", "./demo", "a/b/c", str(tmp_path / "none"), "~/no-such-lens"):
        with pytest.raises(BadInput, match="there is no such folder"):
            AutoLens.from_pretrained(place)
    assert cli.main(["explain", "--lens", "outputs/demo", "text"]) == 2
    assert "Here are: outputs/demo_1." in capsys.readouterr().err


def named(folder: Path, recipe: str | None = "demo", alone: bool = True) -> Path:
    request = Request("run", {}, recipe=recipe, named_itself=alone, folder=folder)
    return ending.name_newest(request, folder)


def test_the_newest_run_of_a_recipe_has_its_name(tmp_path: Path) -> None:
    first, second = (run_folder(tmp_path / name) for name in ("demo_1", "demo_2"))
    link = tmp_path / "demo"
    assert named(first) == link and link.resolve() == first.resolve()
    assert named(second) == link and link.resolve() == second.resolve()
    assert not link.readlink().is_absolute(), "the folder of all runs may move"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["demo", "demo_1", "demo_2"]


def test_what_somebody_named_stays(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "demo_1")
    assert named(folder, recipe=None) == folder and named(folder, alone=False) == folder
    mine = run_folder(tmp_path / "demo")
    assert named(folder) == folder and not mine.is_symlink()


def test_a_run_ends_with_what_to_type(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_folder(tmp_path / "demo 1")
    ending.show_next(Request("train", {}, stage="train"), folder)
    said = capsys.readouterr().out
    assert f"explain --lens '{folder}'" in said and f"evaluate --lens '{folder}'" in said
    assert f"AutoLens.from_pretrained({str(folder)!r})" in said
    ending.show_next(Request("run", {}, stage="evaluate"), folder)
    assert "evaluate --lens" not in capsys.readouterr().out, "a whole run has its report"
