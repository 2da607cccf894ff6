"""The project's own files agree: metadata, constraints, README, CI, licence, launch configurations."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT = PYPROJECT["project"]
EXTRAS = {name: [Requirement(line) for line in lines] for name, lines in PROJECT["optional-dependencies"].items()}
CI = (ROOT / ".ci/run").read_text("utf-8")


def constraints() -> dict[str, str]:
    lines = [line.strip() for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()]
    pins = [re.fullmatch(r"([\w.-]+)==([\w.]+)", line) for line in lines if line and not line.startswith("#")]
    assert all(pins), "a constraint is `name==version`, nothing else: no address, no path"
    return {canonicalize_name(pin[1]): pin[2] for pin in pins if pin}


def direct_dependencies() -> list[Requirement]:
    found = [Requirement(line) for line in PROJECT["dependencies"]] + [r for lines in EXTRAS.values() for r in lines]
    return [requirement for requirement in found if requirement.name != PROJECT["name"]]


def extra(name: str) -> set[str]:
    """The packages of an extra, with those of the extras that it names."""
    own = {r.name for r in EXTRAS[name] if r.name != PROJECT["name"]}
    return own.union(*(extra(other) for r in EXTRAS[name] if r.name == PROJECT["name"] for other in r.extras))


@pytest.mark.parametrize("requirement", direct_dependencies(), ids=lambda requirement: requirement.name)
def test_constraints_cover_each_direct_dependency(requirement: Requirement) -> None:
    pinned = constraints()[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(pinned)
    assert any(part.operator == ">=" for part in requirement.specifier), "a floor, so that nothing ancient is resolved"


def test_extras() -> None:
    assert set(EXTRAS) == {
        "train",
        "deepspeed",
        "quant",
        "gguf",
        "flash",
        "space",
        "serve",
        "track",
        "docs",
        "test",
        "dev",
        "all",
    }
    everything = set().union(*map(extra, EXTRAS))
    assert all(map(extra, EXTRAS)), "an empty extra promises something that it does not bring"
    assert extra("all") == everything - {"flash-attn"}, "flash-attn cannot be installed without a CUDA toolkit"
    assert extra("test") < extra("dev")


def test_ci_runs_the_readme_test_command() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    commands = [line.strip() for line in readme.splitlines() if line.strip().endswith(".venv/bin/pytest")]
    assert len(commands) == 1, f"one command in the README sets up and passes the tests, found {commands}"
    assert f'TEST_COMMAND="{commands[0]}"' in CI


def test_readme_runs_the_main_job() -> None:
    command = (
        "python3.11 -m venv .venv && .venv/bin/pip install -c constraints.txt -e . "
        "&& .venv/bin/accelerate launch run_lens.py"
    )
    assert command in (ROOT / "README.md").read_text("utf-8").splitlines()


def test_ci_is_executable_and_careful() -> None:
    assert os.access(ROOT / ".ci/run", os.X_OK)
    assert "set -euo pipefail" in CI
    subprocess.run(["bash", "-n", ROOT / ".ci/run"], check=True)


def test_ci_runs_every_mark_that_a_cpu_can_run() -> None:
    options = PYPROJECT["tool"]["pytest"]["ini_options"]
    marks = {line.partition(":")[0] for line in options["markers"]}
    left_out = set(re.findall(r"not (\w+)", options["addopts"][-1]))
    later = re.search(r'^MARKS="(.+)"$', CI, re.MULTILINE)
    assert later is not None
    # `external` installs another project: minutes that a run here does not have.
    assert left_out == marks == {*later[1].split(" or "), "gpu", "external"}


def test_license_is_apache() -> None:
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert PROJECT["license"] == "Apache-2.0"
    assert text.split()[:6] == ["Apache", "License", "Version", "2.0,", "January", "2004"]
    assert re.findall(r"^ +(\d)\. [A-Z]", text, re.MULTILINE) == list("123456789")
    assert "END OF TERMS AND CONDITIONS" in text and "APPENDIX: How to apply" in text


@pytest.mark.parametrize("path", sorted((ROOT / "ds_configs").glob("*.*")), ids=lambda path: path.name)
def test_launch_configuration_parses_and_is_explained(path: Path) -> None:
    if path.suffix in (".yaml", ".json"):
        parse = yaml.safe_load if path.suffix == ".yaml" else json.loads
        assert isinstance(parse(path.read_text("utf-8")), dict)
        assert f"`{path.name}`" in (ROOT / "ds_configs/README.md").read_text("utf-8")


@pytest.mark.distributed
def test_ddp_yaml_starts_two_processes_that_talk(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, torch\n"
        "from accelerate import Accelerator\n"
        "a = Accelerator()\n"
        "ranks = a.gather(torch.tensor([a.process_index])).tolist()\n"
        "if a.is_main_process:\n"
        "    open(sys.argv[1], 'w').write(f'{a.num_processes} {a.distributed_type.value} {ranks}')\n"
        "a.wait_for_everyone()\n"
        "a.end_training()\n"
    )
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", ROOT / "ds_configs/ddp.yaml"]
    subprocess.run(
        [*launch, "--main_process_port", "0", script, tmp_path / "result"],
        env={**os.environ, "ACCELERATE_USE_CPU": "true"},
        timeout=300,
        check=False,  # the result counts: gloo has been seen to abort after everything was done
    )
    assert (tmp_path / "result").read_text() == "2 MULTI_CPU [0, 1]"


UNINSTALLED = """
import sys
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from consistency_lens.cli.parsing.request import parse
from consistency_lens.cli.runs import begin_run
from consistency_lens.frozen.loading.provenance import library_versions
try:
    print(version("consistency-lens"))
except PackageNotFoundError:
    print("hidden", library_versions()["consistency-lens"])
words = ["train", "--use_cpu", "--activations", "rows", "--output_dir", sys.argv[1]]
with ExitStack() as exits:
    begin_run(Path(sys.argv[1]), parse(words), words, None, exits)
"""


def test_a_checkout_that_is_not_installed_runs(tmp_path: Path) -> None:
    """All packages of this Python are there but our own record, which an editable install leaves beside us, too."""
    others = tmp_path / "others"
    others.mkdir()
    (others / "consistency_lens").symlink_to(ROOT / "consistency_lens")
    for place in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(place).iterdir():
            if "consistency_lens" not in entry.name and not (others / entry.name).exists():
                (others / entry.name).symlink_to(entry)
    done = subprocess.run(
        [sys.executable, "-S", "-c", UNINSTALLED, str(tmp_path / "run")],
        env=os.environ | {"PYTHONPATH": str(others)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "hidden not installed"
    (start,) = json.loads((tmp_path / "run/run.json").read_text())["starts"]
    assert start["versions"]["consistency-lens"] == "not installed" and start["versions"]["torch"]
