"""The page that shows a lens, as a Space: it brings along the sources of this package, and says which versions it was
tried with, so that it starts on a machine that has neither."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution, requires, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from ... import hub
from ...base.saving.lens_card import CARD
from ...base.saving.published_card import card_there
from ...card import merge_card
from ...errors import BadInput

PACKAGE = Path(__file__).parents[2]
SPACE = PACKAGE.parent / "spaces_demo"
NAME, NAMED_IN, NEEDS = "consistency-lens", "lens.txt", "requirements.txt"
PYTHON = "3.11"
_OF_A_PAGE = {".py", ".css", ".js", ".md", ".txt"}
_OF_THE_PACKAGE = {".py", ".yaml", ".md", ".typed"}


def page_files() -> dict[str, Path]:
    """The page, which comes with the sources and not with an installed package, and the package itself beside it."""
    if not (SPACE / "app.py").is_file():
        fix = "Publish from a checkout of the project, or leave out --space."
        raise BadInput("space", True, fix, why="an installed package does not bring the page along")
    if _installed(NAME) is None:
        fix = "Install the checkout first: pip install -e ."
        raise BadInput("space", True, fix, why="the requirements of the page are those of the installed package")
    page = {name: path for name, path in _sources(SPACE, _OF_A_PAGE).items() if name != NAMED_IN}
    return page | {f"{PACKAGE.name}/{name}": path for name, path in _sources(PACKAGE, _OF_THE_PACKAGE).items()}


def _sources(folder: Path, suffixes: set[str]) -> dict[str, Path]:
    found = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {
        name.as_posix(): path
        for name, path in sorted(found.items())
        if name.suffix in suffixes and not any(part.startswith(".") for part in name.parts)
    }


def page_words(repo: str) -> dict[str, str]:
    """Name -> content of what is written for this page alone: its lens, what it needs, what it is a version of."""
    return {
        NAMED_IN: f"{repo}\n",
        NEEDS: "".join(f"{need}\n" for need in needs()),
        # what a package says its own version by
        f"{PACKAGE.name}-{version(NAME)}.dist-info/METADATA": distribution(NAME).read_text("METADATA") or "",
    }


def send_page(files: Mapping[str, Path], repo: str, models: Sequence[str], token: str | None) -> str:
    """Publish it beside a lens; returns the address.

    Args:
        files: name in the repository -> file.
        repo: of the lens; the page has the same name.
        models: ids of all that it loads.
        token: with write access.
    """
    with TemporaryDirectory(prefix="consistency-lens-") as scratch:
        written = page_words(repo) | {CARD: _card(files[CARD].read_text(encoding="utf-8"), repo, models, token)}
        made = {name: Path(scratch) / name.replace("/", "-") for name in written}
        for name, path in made.items():
            path.write_text(written[name], encoding="utf-8")
        gone = ["*.py", f"{PACKAGE.name}/*", f"{PACKAGE.name}-*.dist-info/*"]
        with hub.staged({**files, **made}) as folder:
            return hub.upload(folder, repo, "Show a lens", token, kind="space", delete=gone)


def needs() -> list[str]:
    """What the package and the page need, each at the version that is installed here, if it is."""
    found = [line.partition(";") for line in requires(NAME) or []]
    wanted = [need.strip() for need, _, when in found if "extra" not in when or "space" in when]
    names = {need: re.split(r"[^\w.-]", need)[0] for need in wanted}
    return [f"{name}=={installed}" if (installed := _installed(name)) else need for need, name in names.items()]


def _installed(name: str) -> str | None:
    try:
        return version(name).partition("+")[0]  # the build for a CPU or a GPU is for the other machine to choose
    except PackageNotFoundError:
        return None


def _card(ours: str, repo: str, models: Sequence[str], token: str | None) -> str:
    """The page's README with what the Hub has to know; once it has been published, the words there stay."""
    fields: dict[str, Any] = {
        "sdk": "gradio",
        "sdk_version": _installed("gradio"),
        "python_version": PYTHON,
        "app_file": "app.py",
    }
    fields["models"] = list(models)
    front = yaml.safe_dump({key: value for key, value in fields.items() if value}, sort_keys=False)
    # The README that the Hub itself puts into a new Space is nobody's.
    there = card_there(repo, token, kind="space") if hub.has_file(repo, "app.py", token, kind="space") else None
    return merge_card(f"---\n{front}---\n", there.read_text(encoding="utf-8") if there else ours)
