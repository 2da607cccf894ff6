"""Under which licence a model or a data set on the Hub is: what its own card says, and nothing that is guessed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import yaml
from huggingface_hub import ModelCard, constants

from ... import hub
from ...errors import BadInput

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
        path = hub.download_file(repo, "README.md", revision, field="repo", kind=kind)
        data = ModelCard(path.read_text(encoding="utf-8")).data.to_dict()
    except (BadInput, OSError, ValueError, yaml.YAMLError):
        return Licence(UNKNOWN, f"The card of {repo} could not be read here: look at its terms before you share this.")
    found = data.get("license")
    found = found[0] if isinstance(found, list) and found else found
    if not found:
        return Licence(UNKNOWN, f"The card of {repo} names none: look at its terms before you share this.")
    note = f"Inherited from {repo}, whose terms hold for what was made with it."
    name, link = (str(data[key]) if data.get(key) else None for key in ("license_name", "license_link"))
    if link and "://" not in link:  # a file of that repository, which is in no other
        link = (
            f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{repo}/blob/{revision or 'main'}/{link}"
        )
    return Licence(str(found), note, name, link)


def licence_of_local(name: str) -> Licence:
    """Of a model or texts that came from a folder: nobody can say."""
    return Licence(UNKNOWN, f"{name} came from a local folder: whoever has made it knows its terms.")
