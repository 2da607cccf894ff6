"""Natural Language Autoencoders that others have published: where their two parts lie, and of which model they are.

A place is a folder, or `owner/name` on the Hub. It holds both parts, each in a folder of its own or one of them at the
top; or it is one part whose name ends in `-av` (the verbaliser) or `-ar` (the reconstructor), and the other lies
beside it under the same name with the other ending.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Unpack

from ... import hub
from ...base.foreign import Foreign
from ...errors import BadInput
from ...frozen import FrozenLM
from .autoencoder import NaturalLanguageAutoencoder
from .sidecar import FILE, Sidecar
from .weights import ADAPTER_CONFIG, ADAPTERS, HEAD, MERGED

WRITES, READS = "-av", "-ar"
_ON_HUB = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_WEIGHTS = ("*.json", "*.safetensors")
_FIX = f"Name a folder with one of each, or one whose name ends in {WRITES} beside one that ends in {READS}."


def find(
    place: str, revision: str | None, token: str | None, whole: bool, **reach: Unpack[hub.Reach]
) -> Foreign | None:
    """Such a pair of models; None where this is none.

    Args:
        place: see the file.
        revision: on the Hub; of the other part the newest one is taken.
        token: of the Hub.
        whole: whether weights are downloaded, or only what says what it is.
        reach: how the Hub is reached.
    """
    if Path(place).is_dir():
        folders = [Path(place), *(Path(each) for each in _pair(place) if each != place and Path(each).is_dir())]
    elif _ON_HUB.fullmatch(place) and not Path(place.partition("/")[0]).is_dir():
        folders = [_fetched(place, revision, token, whole, **reach)]
        if _has_sidecar(folders[0]):
            folders += [_fetched(each, None, token, whole, **reach) for each in _pair(place) if each != place]
    else:
        return None
    if not _has_sidecar(folders[0]):
        return None
    if not whole:
        return Foreign("", partial(_open, place, revision, token, **reach))
    writes, reads = (_only(place, folders, kind) for kind in _KINDS)
    sidecar = Sidecar.of(place, _sidecar_of(writes, place), _sidecar_of(reads, place))
    return Foreign(sidecar.model_id, partial(NaturalLanguageAutoencoder.open, sidecar, writes, reads))


def _pair(place: str) -> list[str]:
    """Both parts, by their names; none where the name says nothing."""
    name = place.rstrip("/\\")
    stem, ending = name[: -len(WRITES)], name[-len(WRITES) :]
    return [stem + WRITES, stem + READS] if ending in (WRITES, READS) else []


def _fetched(repo: str, revision: str | None, token: str | None, whole: bool, **reach: Unpack[hub.Reach]) -> Path:
    """A repository, or what says what it is: of one that is no such lens, weights are not downloaded."""
    folder = hub.download(repo, revision, token, allow=[FILE, f"*/{FILE}"], ignore=[], **reach)
    if whole and _has_sidecar(folder):
        allow = [FILE, f"*/{FILE}", *_WEIGHTS]
        folder = hub.download(repo, revision or folder.name, token, allow=allow, ignore=[], **reach)
    return folder


def _within(folder: Path) -> list[Path]:
    return [folder, *sorted(path for path in folder.glob("*") if path.is_dir())]


def _has_sidecar(folder: Path) -> bool:
    return any((each / FILE).is_file() for each in _within(folder))


def _reconstructor(folder: Path) -> bool:
    return (folder / HEAD).is_file() or (folder / ADAPTERS).is_file()


def _verbaliser(folder: Path) -> bool:
    return not _reconstructor(folder) and ((folder / ADAPTER_CONFIG).is_file() or any(folder.glob(MERGED)))


_KINDS = {"verbaliser": _verbaliser, "reconstructor": _reconstructor}


def _only(place: str, folders: list[Path], kind: str) -> Path:
    """The one folder of a kind."""
    found = [each for folder in folders for each in _within(folder) if _KINDS[kind](each)]
    if len(found) != 1:
        names = ", ".join(each.name for each in found[:3])
        raise BadInput("lens", place, _FIX, f"there are {len(found)}: {names}" if found else f"it has no {kind}")
    return found[0]


def _sidecar_of(part: Path, place: str) -> Path:
    """Beside the weights, or one folder up."""
    for folder in (part, part.parent):
        if (folder / FILE).is_file():
            return folder / FILE
    raise BadInput("lens", place, _FIX, why=f"{part.name} has no {FILE}")


def _open(
    place: str, revision: str | None, token: str | None, frozen: FrozenLM, **reach: Unpack[hub.Reach]
) -> NaturalLanguageAutoencoder:
    found = find(place, revision, token, whole=True, **reach)
    assert found is not None
    lens: NaturalLanguageAutoencoder = found.open(frozen)
    return lens
