"""`run_lens.py publish`: a lens, with its card and its report, to the Hub; and the page to look at it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from accelerate import PartialState
from rich.markup import escape
from rich.table import Table
from safetensors import SafetensorError, safe_open
from transformers.utils import CONFIG_NAME

from ... import hub
from ...activations.documents import SPLITS
from ...activations.storage import LAYOUT
from ...auto import family_of, lens_folder, read_config
from ...base.configuration import LensConfig
from ...base.saving.lens_card import CARD
from ...base.saving.lens_files import MEASURED, REPORT, lens_files, require_inside
from ...base.saving.published_card import publish_card
from ...base.watching.samples import FILE as SAMPLES
from ...errors import BadInput
from ...finding import is_demo
from ..opening import console
from ..parsing.request import Request, run_of
from ..run_folder import HISTORY
from .publish_space import PACKAGE, page_files, page_words, send_page
from .publish_subject import config_with, send_subject, subject_card, subject_files, subject_repo
from .report import named_lens

_ALONE = (
    "Its model is not published with it: this machine does not have the one that it was made for. Another machine, "
    "which trains that frozen model again, may get other weights, and then the lens refuses them."
)
_OF_ROWS = (CARD, *LAYOUT, *(f"{split}/data-*.{kind}" for split in SPLITS for kind in ("arrow", "safetensors")))


def publish(request: Request) -> None:
    """Check, say what goes where, send."""
    given, place = request.publishing, named_lens(request)
    if not given.repo_id:
        raise BadInput("repo_id", given.repo_id, "Say where to, as in --repo_id owner/name.")
    revision = request.values["revision"]
    if given.space and revision is not None:
        raise BadInput("space", True, "Leave out --space or --revision.", why="the page shows what is on main")
    files = parcel(place)
    page = page_files() if given.space else {}
    config = _config_of(files[CONFIG_NAME].parent)
    subject = subject_files(config)
    token = hub.require_token(request.values["hub_token"])
    hub.require_clean({**files, **page}, given.repo_id, token)
    if not PartialState().is_main_process:
        return
    show_bills(given.repo_id, given.private, files, config, subject)
    if given.space:
        show_bill(given.repo_id, "space", given.private, page, page_words(given.repo_id))
    private = given.private or None
    repo = hub.create(given.repo_id, token, private, revision=revision)
    if given.space:
        hub.create(repo, token, private, "space")
    address = send_lens(files, repo, token, revision, private)
    console.print(f"\nlens at [bold]{escape(address)}[/]", highlight=False, soft_wrap=True)
    if given.space:
        models = [repo, *([subject_repo(config.origin, repo)] if subject else [])]
        address = send_page(page, repo, models, token)
        console.print(f"page at [bold]{escape(address)}[/]", highlight=False, soft_wrap=True)
        if given.private:
            console.print("The page can read a private lens once its settings hold a secret HF_TOKEN that may.")


def publish_run(request: Request, folder: Path) -> None:
    """What a run has made in the end, report and all, over what was pushed while it went on."""
    if not PartialState().is_main_process:
        return
    values = request.values
    token, files = values["hub_token"], parcel(str(folder))
    name, private = values["hub_model_id"] or folder.resolve().name, values["hub_private_repo"]
    config = _config_of(files[CONFIG_NAME].parent)
    show_bills(name, bool(private), files, config, subject_files(config))
    repo = hub.create(name, token, private, revision=values["hub_revision"], field="hub_model_id")
    address = send_lens(files, repo, token, values["hub_revision"], private)
    console.print(f"lens at [bold]{escape(address)}[/]", highlight=False, soft_wrap=True)


def parcel(place: str) -> dict[str, Path]:
    """Name in the repository -> file, for the lens of a run or of a folder; raise where there is no whole lens."""
    folder, home = Path(lens_folder(place)), run_of(place)
    files = lens_files(folder, require_whole(folder))
    for name in (SAMPLES, HISTORY):
        if home is not None and (home / name).is_file():
            files.setdefault(name, require_inside(home / name, home))
    return files


def require_whole(folder: Path) -> LensConfig:
    """The configuration of a lens in a folder whose every file can be opened."""
    if not folder.is_dir():
        raise BadInput("lens", str(folder), "Give the folder of a run or of a lens.", why="there is no such folder")
    config = _config_of(folder)
    for file in config.weight_files:
        try:
            with safe_open(folder / file, "pt") as tensors:
                tensors.keys()
        except (OSError, SafetensorError) as error:
            fix = "Save the lens again before you publish it."
            raise BadInput("lens", str(folder), fix, why=f"{file} cannot be read: {error}") from error
    return config


def _config_of(folder: Path) -> LensConfig:
    saved, _ = read_config(str(folder))
    config: LensConfig = family_of(saved, str(folder)).load("config").from_pretrained(folder)
    return config


def show_bills(
    repo: str, private: bool, files: Mapping[str, Path], config: LensConfig, subject: Mapping[str, Path]
) -> None:
    """Of a lens, and of its frozen model where that goes along."""
    show_bill(repo, "model", private, files)
    if f"{REPORT}/report.json" not in files:
        console.print("There is no report: the card has no numbers. `run_lens.py evaluate --lens ...` makes one.")
    if subject:
        card = {CARD: subject_card(subject, config.origin)}
        show_bill(subject_repo(config.origin, repo), "model", private, subject, card)
    elif is_demo(config.origin.model_id):
        console.print(_ALONE)


def show_bill(
    repo: str, kind: str, private: bool, files: Mapping[str, Path], words: Mapping[str, str] | None = None
) -> None:
    """What goes where, before it goes: files, and in the place of some, or beside them, what is written for it."""
    found = {name: path.stat().st_size for name, path in files.items()}
    found |= {name: len(text.encode()) for name, text in (words or {}).items()}
    sizes = dict(sorted(found.items()))
    title = f"{len(sizes)} files, {_bytes(sum(sizes.values()))}, to the {'private ' if private else ''}{kind} {repo}"
    console.print(f"[bold]{escape(title)}[/]", highlight=False, soft_wrap=True)
    table = Table(box=None, show_header=False)
    table.add_column(overflow="fold")
    table.add_column(justify="right")
    package = {name: size for name, size in sizes.items() if name.startswith(f"{PACKAGE.name}/")}
    for name, size in sizes.items():
        if name not in package:
            table.add_row(escape(name), _bytes(size))
    if package:
        table.add_row(
            f"{PACKAGE.name}/, the sources of the package: {len(package)} files", _bytes(sum(package.values()))
        )
    console.print(table)


def send_lens(
    files: Mapping[str, Path],
    repo: str,
    token: str | None,
    revision: str | None = None,
    private: bool | None = None,
) -> str:
    """A lens, and before it its frozen model where nobody else could have it."""
    config = _config_of(files[CONFIG_NAME].parent)
    with TemporaryDirectory(prefix="consistency-lens-") as scratch:
        files = _with_card(files, Path(scratch), repo, token, revision)
        if subject := subject_files(config):
            origin = send_subject(subject, config.origin, repo, token, private)
            files = {**files, CONFIG_NAME: config_with(origin, files[CONFIG_NAME], Path(scratch))}
        gone = {*MEASURED, *config.own_files, *(f"{part}/*" for part in config.part_folders)}
        return _send(files, repo, "Upload a lens", token, revision=revision, delete=sorted(gone))


def require_dataset_repo(request: Request, folder: Path) -> str | None:
    """Where the rows of an extraction shall go, if anywhere; it is there, and may be written to, before the work."""
    values, name = request.values, request.publishing.hub_dataset_id
    if name is None and not (request.command == "extract" and values["push_to_hub"]):
        return None
    token = hub.require_token(values["hub_token"])
    if not PartialState().is_main_process:
        return None
    private = _private_rows(request) or None
    return hub.create(name or folder.resolve().name, token, private, "dataset", field="hub_dataset_id")


def _private_rows(request: Request) -> bool:
    return bool(request.values["hub_private_repo"] or request.publishing.private)


def publish_rows(request: Request, folder: Path, repo: str) -> None:
    """A finished extraction as a dataset, with its card."""
    files = {path.relative_to(folder).as_posix(): path for pattern in _OF_ROWS for path in folder.glob(pattern)}
    show_bill(repo, "dataset", _private_rows(request), files)
    with TemporaryDirectory(prefix="consistency-lens-") as scratch:
        token = request.values["hub_token"]
        files = _with_card(files, Path(scratch), repo, token, kind="dataset")
        shards = sorted({f"{Path(name).parent}/*" for name in files if "/" in name})
        sent: Any = {"kind": "dataset", "delete": shards, "field": "hub_dataset_id"}
        address = _send(files, repo, "Upload activations", token, **sent)
    console.print(f"rows at [bold]{escape(address)}[/]", highlight=False, soft_wrap=True)


def _send(files: Mapping[str, Path], repo: str, message: str, token: str | None, **where: Any) -> str:
    with hub.staged(files) as folder:
        return hub.upload(folder, repo, message, token, **where)


def _with_card(
    files: Mapping[str, Path],
    scratch: Path,
    repo: str,
    token: str | None,
    revision: str | None = None,
    kind: str = "model",
) -> dict[str, Path]:
    """The same with the card as it reads in that repository."""
    if CARD not in files:
        return dict(files)
    return {**files, CARD: publish_card(files[CARD], scratch, repo, token, revision, kind)}


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
