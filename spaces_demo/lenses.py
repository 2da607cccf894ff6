"""Where the lenses come from: a folder or a repo that was named, its checkpoints beside it, or the newest demo run."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Any

from brought import brought_by

from consistency_lens import AutoLens, BadInput, LensModel, ProvenanceMismatch

HERE = Path(__file__).parent
NAMED_IN = HERE / "lens.txt"
DEMO = ("*_demo_*/lens", "demo/lens")
CONFIG = "config.json"
MAKE_ONE = "accelerate launch run_lens.py"
KEPT = 3  # lenses in memory
ONE_MODEL = "base"  # what a lens of one model calls it


def chosen_places(given: Sequence[str] = ()) -> list[str]:
    """What the command line names; else `LENS`, else `lens.txt` beside the app, else the newest demo run."""
    if given:
        return list(given)
    if os.environ.get("LENS"):
        return os.environ["LENS"].split(os.pathsep)
    if NAMED_IN.is_file() and (named := NAMED_IN.read_text(encoding="utf-8").split()):
        return named
    return [str(newest_demo([Path.cwd(), HERE.parent]))]


def newest_demo(roots: Sequence[Path]) -> Path:
    """The demo lens that was finished last, under `outputs/` of any of these folders."""
    found = {path for root in roots for pattern in DEMO for path in (root / "outputs").glob(pattern)}
    whole = newest_first(path / CONFIG for path in found if (path / CONFIG).is_file())
    if not whole:
        fix = f"Make one with `{MAKE_ONE}` (minutes on a CPU), or name one: --lens FOLDER_OR_REPO."
        raise BadInput("lens", None, fix, why="no lens was named, and no demo run lies under outputs/")
    return whole[0].parent


def newest_first(paths: Iterable[Path]) -> list[Path]:
    """Those that are there, by the time at which they were last written: a run may be taken away while we look."""
    dated = []
    for path in paths:
        with suppress(OSError):
            dated.append((path.stat().st_mtime, path))
    return [path for _, path in sorted(dated, reverse=True)]


class Lenses:
    """The lenses that can be chosen, by name; each is loaded when it is first asked for.

    Args:
        places: folders of lenses or of runs, or ids on the Hub, there with @ and a branch, tag or commit if it is not
            the newest that is wanted. The first one is the default. Of a run, its checkpoints can be chosen as well.
        subject: folder or id of the model that they read, where the lenses do not say it themselves; of several models
            a mapping from their names.
    """

    def __init__(self, places: Sequence[str], subject: str | Mapping[str, str] | None = None) -> None:
        self.subject = subject
        self.folders: dict[str, Path] = {}
        self.on_hub: dict[str, tuple[str, str | None]] = {}
        self._kept: OrderedDict[str, LensModel] = OrderedDict()
        self._lock, self._adding = Lock(), Lock()
        self._own: set[str] = set()  # names of those that find their models themselves
        for place in map(os.path.expanduser, places):
            name, found = self._found(place)
            self._list(name, found, place)
        self.default = next(iter(self.folders))

    def add(self, place: str) -> str:
        """One more, while the page is open; returns its name. It is loaded first: one that cannot be is never among
        the others. Where `subject` is none of its models, it finds them itself."""
        with self._adding:
            name, found = self._found(place)
            with self._lock:
                self._own.update([name, *found])
                self._loaded(name, found.get(name) or self.folders[name])
                self._list(name, found, place)
            return name

    def _found(self, place: str) -> tuple[str, dict[str, Path]]:
        """The name of a lens, and its folder and those beside it by name; of one that is known already, no folders."""
        repo, revision = _parts_of(place)
        folder, name = AutoLens.download(repo, revision), _name_of(place)
        for known, other in self.folders.items():
            if other == folder:
                return known, {}
        name = next(each for each in _names_like(name) if each not in self.folders)
        return name, {name: folder, **{f"{name} · {other.name}": other for other in _beside(folder)}}

    def _list(self, name: str, found: Mapping[str, Path], place: str) -> None:
        """Offer what was found from now on."""
        self.folders = {**self.folders, **found}  # as a whole: others are reading it
        repo, revision = _parts_of(place)
        if found and not Path(repo).is_dir():
            self.on_hub[name] = repo, revision

    @property
    def names(self) -> list[str]:
        return list(self.folders)

    def known(self, name: str | None) -> str:
        """The name; raise where it is none of ours, wherever it came from."""
        if name is not None and not (isinstance(name, str) and name in self.folders):
            raise BadInput("lens", str(name)[:80], f"Choose one of: {', '.join(self.folders)}.")
        return name or self.default

    def get(self, name: str | None = None) -> LensModel:
        """A lens with its frozen model."""
        name = self.known(name)
        with self._lock:
            return self._loaded(name, self.folders[name])

    def _loaded(self, name: str, folder: Path) -> LensModel:
        """A lens that is kept, or is from now on."""
        if name not in self._kept:
            self._kept[name] = self._load(name, folder)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(name)
        return self._kept[name]

    @property
    def kinds(self) -> set[object]:
        """What families there are, as the lenses call them themselves."""
        return {_config_of(folder).get("model_type") for folder in self.folders.values()}

    def _load(self, name: str, folder: Path) -> LensModel:
        config = _config_of(folder)
        wanted = [config.get(key) for key in ("provenance", "other_models")]
        # Lenses whose weights are their own share their models in memory. One with adapters has a copy to itself, so
        # that it goes without a trace when others take its place.
        subject: Any = self.subject
        if isinstance(self.subject, Mapping):  # which may name models of other lenses, too
            names = config.get("model_names") or [ONE_MODEL]
            subject = {name: place for name, place in self.subject.items() if name in names} or None
        if not _has_adapters(folder):
            for other, lens in self._kept.items():
                theirs = [lens.config.provenance, lens.config.other_models]
                if not _has_adapters(self.folders[other]) and theirs == wanted:
                    subject = lens.models
        try:
            lens = AutoLens.from_pretrained(folder, subject=subject)
        except ProvenanceMismatch as error:
            if name in self._own and self.subject is not None:
                return AutoLens.from_pretrained(folder)
            fix = "Name the model that it was made for as --subject, on a page of its own if the others read another."
            raise BadInput("lens", name, fix, why="it was made for another model than the one here") from error
        return lens


def run_of(folder: Path) -> Path:
    """The folder of the run that a lens belongs to; a published lens is its own."""
    return folder.parent if folder.parent.joinpath("history.json").is_file() else folder


def _parts_of(place: str) -> tuple[str, str | None]:
    """Folder or id, and revision; a folder has none, whatever it is called."""
    repo, at, revision = place.partition("@")
    return (repo, revision) if at and not Path(place).is_dir() else (place, None)


def _names_like(name: str) -> Iterator[str]:
    """Runs in different folders may be called the same."""
    yield name
    yield from (f"{name} ({number})" for number in count(2))


def _name_of(place: str) -> str:
    path = Path(place)
    if not path.is_dir():
        return place
    return path.resolve().parent.name if path.name == "lens" else path.resolve().name


def _beside(folder: Path) -> list[Path]:
    """Other stages of the same run: the averaged lens, and the checkpoints, oldest first."""
    run = run_of(folder)
    if run == folder:
        return []
    steps = [path for path in run.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdecimal()]
    steps.sort(key=lambda path: int(path.name.removeprefix("checkpoint-")))
    return [path for path in [run / "lens-ema", *steps] if (path / CONFIG).is_file() and path != folder]


def _config_of(folder: Path) -> dict[str, object]:
    with brought_by(folder, CONFIG, "Save it again, or fetch it again."):
        return dict(json.loads((folder / CONFIG).read_text(encoding="utf-8")))


def _has_adapters(folder: Path) -> bool:
    config = _config_of(folder)
    return "lora" in (config.get("trainable"), config.get("encoder_trainable"))


def subject_of(words: Sequence[str]) -> str | dict[str, str] | None:
    """What --subject names: a place, or a place for each of several models, as NAME=PLACE."""
    if len(words) < 2 and not any("=" in word and not Path(word).is_dir() for word in words):
        return words[0] if words else None
    split = [word.partition("=") for word in words]
    if bad := [word for word, (name, _, place) in zip(words, split, strict=True) if not (name and place)]:
        raise BadInput("subject", bad[0], "Give NAME=FOLDER for each of several models.")
    return {name: place for name, _, place in split}
