"""Under which licence a model or a data set on the Hub is: what its own card says, and nothing that is guessed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml
from huggingface_hub import ModelCard, hf_hub_download

UNKNOWN = "unknown"  # the Hub's own id for it


@dataclass(frozen=True)
class Licence:
    """A licence as the Hub names it.

    Args:
        id: of the Hub's list.
        note: where it comes from, in a sentence.
        name, link: for licences that the Hub's list does not have (`other`).
    """

    id: str
    note: str
    name: str | None = None
    link: str | None = None


@cache
def licence_of(repo: str, revision: str | None = None, kind: str = "model") -> Licence:
    """What the card of a repository says; `unknown` where there is none or the Hub cannot be asked. Asked once.

    Args:
        repo: id on the Hub.
        revision: branch, tag or commit.
        kind: `model` or `dataset`.
    """
    try:
        path = hf_hub_download(repo, "README.md", repo_type=kind, revision=revision)
        data = ModelCard(Path(path).read_text(encoding="utf-8")).data.to_dict()
    except (OSError, ValueError, yaml.YAMLError):
        return Licence(UNKNOWN, f"The card of {repo} could not be read here: look at its terms before you share this.")
    found = data.get("license")
    found = found[0] if isinstance(found, list) and found else found
    if not found:
        return Licence(UNKNOWN, f"The card of {repo} names none: look at its terms before you share this.")
    note = f"Inherited from {repo}, whose terms hold for what was made with it."
    return Licence(str(found), note, data.get("license_name"), data.get("license_link"))


def licence_of_local(name: str) -> Licence:
    """Of a model or texts that came from a folder: nobody can say."""
    return Licence(UNKNOWN, f"{name} came from a local folder: whoever has made it knows its terms.")
