"""Transcoders that others have published in circuit-tracer's format: where they lie, and which model they are of."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import yaml

from ... import hub
from ...base.foreign import Foreign
from .circuit_tracer import CONFIG, KIND, is_export, read_export

_ON_HUB = re.compile(
    r"(?P<hub>hf://)?(?P<owner>\w[\w.-]*)/(?P<name>\w[\w.-]*)(/(?P<inside>\w[\w./-]*))?(@(?P<revision>[\w./-]+))?"
)


def find(
    place: str, revision: str | None, token: str | None, whole: bool, **reach: Unpack[hub.Reach]
) -> Foreign | None:
    """Such a transcoder; None where it is none.

    Args:
        place: a local folder, `owner/name` on the Hub, or `hf://owner/name/folder`; perhaps with `@revision`.
        revision: on the Hub.
        token: of the Hub.
        whole: whether weights are downloaded, or only what says what it is.
        reach: how the Hub is reached.
    """
    if Path(place).is_dir():
        return _of(Path(place)) if is_export(place) else None
    shaped = _ON_HUB.fullmatch(place)
    plain = shaped and not shaped["hub"] and not shaped["inside"] and not Path(shaped["owner"]).is_dir()
    if not shaped or not (shaped["hub"] or plain):  # a path, if a misspelt one
        return None
    repository, inside, said = f"{shaped['owner']}/{shaped['name']}", shaped["inside"] or "", shaped["revision"]
    wanted = [CONFIG, *(["W_*.safetensors"] if whole else [])]
    patterns = [f"{inside}/{pattern}" if inside else pattern for pattern in wanted]
    folder = hub.download(repository, revision or said, token, allow=patterns, ignore=[], **reach)
    folder = folder / inside if inside else folder
    return _of(folder) if _record(folder).get("model_kind") == KIND else None


def _record(folder: Path) -> dict[str, Any]:
    """What its `config.yaml` says; nothing where it cannot be read, which `read_export` then explains."""
    try:
        said = yaml.safe_load((folder / CONFIG).read_text("utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return said if isinstance(said, dict) else {}


def _of(folder: Path) -> Foreign:
    name = _record(folder).get("model_name", "")
    return Foreign(name if isinstance(name, str) else "", partial(read_export, folder))
