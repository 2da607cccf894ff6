"""A model that the package trained itself goes to the Hub beside its lens: trained again on another machine, its
weights would not be the same to the last bit, and the lens would refuse it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers.utils import CONFIG_NAME

from ... import hub
from ...base.configuration import LensConfig
from ...base.saving.lens_card import CARD
from ...base.saving.published_card import publish_card
from ...demo.subject import REPORT_FILE, folder_named
from ...finding import is_demo
from ...frozen import Provenance
from ...frozen.loading.provenance import hash_files
from ...schema import number, read_json, record

CARD_TEXT = """---
library_name: transformers
license: apache-2.0
tags:
- consistency-lens
- interpretability
---
<!-- generated: subject -->
# {name}

A small causal LM that the package `consistency-lens` trained on stories that it makes up, to be read by lenses: every
story has facts that are stated early and needed late. On new stories it says {accuracy} of the words that need them.

Lenses that were made for it find it here by themselves. It speaks in the words of that world and in no others.

## Licence

That of the package, which made both the stories and the weights: apache-2.0.
<!-- /generated -->
"""


def subject_files(config: LensConfig) -> dict[str, Path]:
    """Name in the repository -> file; none of a model that is to be had elsewhere, or is not on this machine."""
    origin = config.origin
    folder = folder_named(origin.model_id)
    if not is_demo(origin.model_id) or not folder.is_dir():
        return {}
    if hash_files(folder.glob("*.safetensors")) != origin.weights:  # trained again since the lens was
        return {}
    return {path.name: path for path in folder.iterdir() if path.suffix in (".json", ".safetensors")}


def subject_repo(origin: Provenance, lens: str) -> str:
    """Under the owner of the lens, if its name says who that is."""
    owner, slash, _ = lens.partition("/")
    return f"{owner}{slash}{origin.model_id}" if slash else origin.model_id


def subject_card(files: Mapping[str, Path], origin: Provenance) -> str:
    accuracy = "most"
    if REPORT_FILE in files:
        kind = record({"report": record({"accuracy": number(0, 1)})})
        fix = f"Take the folder {files[REPORT_FILE].parent.name} out of the cache: the model is then trained again."
        report = read_json(files[REPORT_FILE], kind, "subject", origin.model_id, fix)["report"]
        accuracy = f"{report['accuracy']:.1%}"
    return CARD_TEXT.format(name=origin.model_id, accuracy=accuracy)


def send_subject(
    files: Mapping[str, Path], origin: Provenance, lens: str, token: str | None, private: bool | None
) -> Provenance:
    """Publish it beside the lens; returns the origin of the lens with where it lies."""
    repo = hub.create(subject_repo(origin, lens), token, private)
    with TemporaryDirectory(prefix="consistency-lens-") as scratch:
        card = Path(scratch) / CARD
        card.write_text(subject_card(files, origin), encoding="utf-8")
        publish_card(card, Path(scratch), repo, token)
        with hub.staged({**files, CARD: card}) as folder:
            address = hub.upload(folder, repo, "Upload a frozen model", token)
    return replace(origin, published=f"{repo}@{address.rpartition('/')[2]}")


def config_with(origin: Provenance, config: Path, scratch: Path) -> Path:
    """A copy of a lens's configuration that says where its frozen model lies."""
    saved = json.loads(config.read_text(encoding="utf-8"))
    copy = scratch / CONFIG_NAME
    copy.write_text(json.dumps(saved | {"provenance": origin.to_dict()}, indent=2) + "\n", encoding="utf-8")
    return copy
