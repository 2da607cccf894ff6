"""The models that a lens was made with: those that are given, or found by what the lens says of them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict, Unpack

from . import hub
from .base.configuration import LensConfig
from .errors import BadInput
from .frozen import FrozenLM, FrozenModels, Provenance
from .frozen.loading.gguf_files import on_hub
from .frozen.loading.source import commit_of

_DEMO_ID = re.compile(r"(subject|pages)-[0-9a-f]{16}")
_READER_ID = re.compile(r"reader-[0-9a-f]{16}")


class AsLoaded(TypedDict, total=False):
    """How a frozen model is loaded other than its lens says, in the words of `FrozenLM.from_pretrained`."""

    dtype: Any
    quantization_config: Any
    cache_dir: str | Path | None
    local_files_only: bool


def is_demo(model_id: str) -> bool:
    """Whether this is a name that only an offline model has."""
    return bool(_DEMO_ID.fullmatch(model_id))


def find_models(
    config: LensConfig,
    given: Any = None,
    device_map: str | dict[str, Any] | None = None,
    token: str | None = None,
    **how: Unpack[AsLoaded],
) -> FrozenLM | FrozenModels:
    """The models that a lens was made with: those that are given, or loaded from where they are, or found.

    Args:
        config: of the lens.
        given: a model or where it lies; of several, a mapping from their names.
        device_map: where a model that is loaded here goes.
        token: of the Hub.
        how: in which a model that is loaded here shall differ from what the lens says of it.
    """
    origins = config.origins
    require_loading(given, how)
    if isinstance(given, FrozenModels) or (isinstance(given, FrozenLM) and len(origins) == 1):
        return given
    if len(origins) == 1 and not isinstance(given, Mapping):
        return find_subject(config.origin, given, device_map, token, **how)
    places = dict(given) if isinstance(given, Mapping) else {next(iter(origins)): given}
    unknown = [name for name in places if name not in origins]
    if unknown:
        raise BadInput("subject", unknown[0], f"Name one of {', '.join(origins)}.", why="the lens knows no such model")
    found = []
    for name, origin in origins.items():
        place = places.get(name)
        if isinstance(place, FrozenLM) and place.name != name:
            fix = f"Load it under that name: FrozenLM.from_pretrained(..., name={name!r})."
            raise BadInput("subject", place.name, fix, why=f"it was given as the lens's model {name!r}")
        model = place if isinstance(place, FrozenLM) else find_subject(origin, place, device_map, token, **how)
        model.name = name
        found.append(model)
    return FrozenModels(found)


def find_subject(
    origin: Provenance,
    place: str | os.PathLike[str] | None = None,
    device_map: str | dict[str, Any] | None = None,
    token: str | None = None,
    trust_remote_code: bool = False,
    **how: Unpack[AsLoaded],
) -> FrozenLM:
    """The model that a lens, or rows, were made with: from `place`, or from where its name leads.

    The caller compares the provenance; here it only settles where to look and how to load. Code is run of a `place`
    alone, which somebody here has named.
    """
    know_architecture(origin.model_id)
    if place is None and origin.published:
        return _load_published(origin, device_map, token, **how)
    if place is None and is_demo(origin.model_id):
        return load_demo(origin.model_id, device_map, **how)
    if place is None and _READER_ID.fullmatch(origin.model_id):
        return _load_reader(origin.model_id, device_map, **how)
    where = str(place or origin.model_id)
    commit, inside = commit_of(origin.weights)
    if place is None and not commit and not Path(where).exists() and not on_hub(where):
        raise BadInput(
            "subject",
            origin.model_id,
            "Name its folder: --model_name_or_path FOLDER, or subject=FrozenLM.from_pretrained(FOLDER).",
            why="the model came from a local folder, and none of this name lies here",
        )
    on_hub_at = commit if commit not in ("", "None") and not Path(where).is_dir() else None
    own = how.get("quantization_config") is None and origin.quantization in ("8bit", "4bit", "fp8")
    as_it_was = {
        "revision": on_hub_at,
        "subfolder": inside if on_hub_at else "",
        "dtype": origin.dtype,
        "quantization": origin.quantization if own else "none",
        "trust_remote_code": trust_remote_code and place is not None,
    }
    return load_named(where, device_map, token, **{**as_it_was, **how})


def require_loading(given: Any, how: AsLoaded) -> None:
    """Raise where somebody says how to load a model that is loaded already."""
    models = list(given.values()) if isinstance(given, Mapping) else [given]
    wanted = {name: value for name, value in how.items() if name in ("dtype", "quantization_config")}
    if wanted and models and all(isinstance(each, FrozenLM) for each in models):
        name, value = next(iter(wanted.items()))
        fix = "Give it to FrozenLM.from_pretrained, or give the model's place as subject."
        raise BadInput(
            name, value if isinstance(value, str) else type(value).__name__, fix, why="the model is loaded already"
        )


def load_named(where: str, device_map: Any, token: str | None, **how: Any) -> FrozenLM:
    try:
        return FrozenLM.from_pretrained(where, device_map=device_map, token=token, **how)
    except OSError as error:
        fix = "Check that this machine is online, or name a folder that holds the model."
        raise BadInput("subject", where, fix, why=hub.redacted(str(error), token)) from error


def _load_published(
    origin: Provenance,
    device_map: str | dict[str, Any] | None,
    token: str | None = None,
    **how: Unpack[AsLoaded],
) -> FrozenLM:
    """From the files, so that it is compared by what is in them and not by the commit."""
    repo, _, commit = origin.published.partition("@")
    reach = hub.Reach(cache_dir=how.get("cache_dir"), local_files_only=how.get("local_files_only", False))
    folder = hub.download(repo, commit, token, field="subject", ignore=[], **reach)
    settings: AsLoaded = {"dtype": origin.dtype, **how}
    return FrozenLM.from_pretrained(folder, device_map=device_map, known_as=origin.model_id, **settings)


def know_architecture(model_id: str) -> None:
    """Have transformers know the architecture of an offline model that is of this package's own making."""
    if model_id.startswith("pages-"):
        from .demo.pages import model  # noqa: F401  registers it


def load_demo(model_id: str, device_map: str | dict[str, Any] | None, **how: Unpack[AsLoaded]) -> FrozenLM:
    from .demo.pages.keeper import KeeperConfig, keeper_id, keeper_path
    from .demo.subject import subject_hash, subject_path
    from .demo.training import SubjectConfig

    paged = model_id.startswith("pages-")
    mine = keeper_id(KeeperConfig()) if paged else f"subject-{subject_hash(SubjectConfig())}"
    if model_id != mine:
        fix = f"Train it again with this version, whose frozen model is {mine}, or give the old frozen model."
        raise BadInput("subject", model_id, fix, why="the offline model of another version of the demo world")
    return FrozenLM.from_pretrained(keeper_path() if paged else subject_path(), device_map=device_map, **how)


def _load_reader(model_id: str, device_map: str | dict[str, Any] | None, **how: Unpack[AsLoaded]) -> FrozenLM:
    from .demo.reading.readers import READERS, reader_hash, reader_path

    known = {f"reader-{reader_hash(config)}": config for config in READERS.values()}
    if model_id not in known:
        fix = f"Train it again with this version, whose readers are {', '.join(known)}, or pass the old ones."
        raise BadInput("subject", model_id, fix, why="a reader of another version of the demo world")
    return FrozenLM.from_pretrained(reader_path(known[model_id]), device_map=device_map, **how)
