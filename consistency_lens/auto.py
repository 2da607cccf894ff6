"""`AutoLens`: a lens by its name alone. The one table of families, and the search for a lens's subject."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from transformers.utils import CONFIG_NAME

from . import hub
from .base.modeling import LensModel
from .base.saving import fetch_config, require_lens
from .errors import BadInput
from .frozen import FrozenLM, Provenance
from .frozen.gguf_files import on_hub
from .schema import require_place

RUN_LENS = "lens"  # where a run keeps the lens it made
_DEMO_ID = re.compile(r"subject-[0-9a-f]{16}")


@dataclass(frozen=True)
class Family:
    """Where the classes of one family live; a class is imported when it is asked for."""

    config: str
    model: str
    trainer: str
    arguments: str

    @staticmethod
    def load(where: str) -> Any:
        module, _, name = where.partition(":")
        return vars(import_module(module, __package__))[name]


FAMILIES = {
    "consistency_lens": Family(
        config=".text.configuration:ConsistencyLensConfig",
        model=".text.modeling:ConsistencyLens",
        trainer=".text.trainer:ConsistencyLensTrainer",
        arguments=".text.arguments:ConsistencyLensArguments",
    ),
}


class AutoLens:
    """Loads any lens, and the frozen LLM it was made for."""

    @staticmethod
    def from_pretrained(
        lens_id_or_path: str | os.PathLike[str],
        subject: FrozenLM | str | os.PathLike[str] | None = None,
        revision: str | None = None,
        device_map: str | dict[str, Any] | None = None,
        token: str | None = None,
    ) -> LensModel:
        """A lens of whatever family, with its subject.

        Args:
            lens_id_or_path: Hub id, folder of a lens, or folder of a run, whose lens is taken.
            subject: the frozen LLM the lens was made for, or where to load it from. Default: what the lens says of it.
                Another one is refused.
            revision: branch, tag or commit of the lens on the Hub.
            device_map: where a subject that is loaded here goes; as in transformers.
            token: for a private lens, or a private subject. Default: of this machine.
        """
        place = lens_folder(lens_id_or_path)
        config, revision = read_config(place, revision, token)
        family = FAMILIES.get(str(config.get("model_type")))
        if family is None:
            why = f"its config.json says model_type={config.get('model_type')!r}"
            raise BadInput("lens", str(lens_id_or_path), f"Families we know: {', '.join(FAMILIES)}.", why)
        if not isinstance(subject, FrozenLM):
            origin = Provenance.from_dict(config["provenance"])
            subject = find_subject(origin, subject, device_map, token)
        return Family.load(family.model).from_pretrained(place, subject=subject, revision=revision, token=token)

    @staticmethod
    def download(
        lens_id_or_path: str | os.PathLike[str],
        revision: str | None = None,
        token: str | None = None,
        report_only: bool = False,
    ) -> Path:
        """The folder of a lens with all that is published of it: weights, report, samples and history, never code.

        Args:
            lens_id_or_path: Hub id; the folder of a lens stays where it is, and of a run its lens is taken.
            revision: branch, tag or commit of the lens on the Hub.
            token: for a private lens. Default: of this machine.
            report_only: no more than what was measured of it.
        """
        place = lens_folder(lens_id_or_path)
        _, commit = read_config(place, revision, token)
        if Path(place).is_dir():
            return Path(place)
        allow = hub.OF_A_REPORT if report_only else hub.LENS_FILES + hub.SHOWN_WITH_IT
        return hub.download(place, commit, token, allow=allow, ignore=hub.OTHER_STAGES)


def lens_folder(lens_id_or_path: str | os.PathLike[str]) -> str:
    """Of a run its lens, of anything else itself."""
    require_place(str(lens_id_or_path), "lens")
    inside = Path(lens_id_or_path) / RUN_LENS
    return str(inside if (inside / CONFIG_NAME).is_file() else lens_id_or_path)


def read_config(
    place: str, revision: str | None = None, token: str | None = None
) -> tuple[dict[str, Any], str | None]:
    """What a lens says of itself, and the commit that it was said at, where it is on the Hub."""
    path = Path(place) / CONFIG_NAME
    if Path(place).is_dir() and not path.is_file():
        raise BadInput("lens", place, "Give the folder of a run that has finished training, or of a lens.")
    if not path.is_file():
        path, revision = fetch_config(place, revision, token)
    return require_lens(path, place), revision


def is_demo(model_id: str) -> bool:
    """Whether this is a name that only an offline subject has."""
    return bool(_DEMO_ID.fullmatch(model_id))


def find_subject(
    origin: Provenance,
    place: str | os.PathLike[str] | None = None,
    device_map: str | dict[str, Any] | None = None,
    token: str | None = None,
) -> FrozenLM:
    """The model that a lens, or rows, were made with: from `place`, or from where its name leads.

    The caller compares the provenance; here it only settles where to look and how to load.
    """
    if place is None and origin.published:
        return _load_published(origin, device_map, token)
    if place is None and is_demo(origin.model_id):
        return _load_demo(origin.model_id, device_map)
    where = str(place or origin.model_id)
    commit = origin.weights.partition("commit:")[2]
    if place is None and not commit and not Path(where).exists() and not on_hub(where):
        raise BadInput(
            "subject",
            origin.model_id,
            "Name its folder: --model_name_or_path FOLDER, or subject=FrozenLM.from_pretrained(FOLDER).",
            why="the model came from a local folder, and none of this name lies here",
        )
    try:
        return FrozenLM.from_pretrained(
            where,
            revision=commit if commit not in ("", "None") and not Path(where).is_dir() else None,
            dtype=origin.dtype,
            quantization=origin.quantization if origin.quantization in ("8bit", "4bit") else "none",
            device_map=device_map,
            token=token,
        )
    except OSError as error:
        fix = "Check that this machine is online, or name a folder that holds the model."
        raise BadInput("subject", where, fix, why=hub.redacted(str(error), token)) from error


def _load_published(origin: Provenance, device_map: str | dict[str, Any] | None, token: str | None = None) -> FrozenLM:
    """From the files, so that it is compared by what is in them and not by the commit."""
    repo, _, commit = origin.published.partition("@")
    folder = hub.download(repo, commit, token, field="subject", ignore=[])
    return FrozenLM.from_pretrained(folder, dtype=origin.dtype, device_map=device_map, known_as=origin.model_id)


def _load_demo(model_id: str, device_map: str | dict[str, Any] | None) -> FrozenLM:
    from .demo.subject import subject_hash, subject_path
    from .demo.training import SubjectConfig

    mine = f"subject-{subject_hash(SubjectConfig())}"
    if model_id != mine:
        fix = f"Train it again with this version, whose subject is {mine}, or pass the old subject."
        raise BadInput("subject", model_id, fix, why="the offline subject of another version of the demo world")
    return FrozenLM.from_pretrained(subject_path(), device_map=device_map)
