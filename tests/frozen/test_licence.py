"""A licence is what the Hub's card says; what cannot be asked is unknown, and never guessed."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants

from consistency_lens.frozen.loading.licence import UNKNOWN, licence_of, licence_of_local

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cached_card(repo: str, card: str, kind: str = "models") -> str:
    """As if the card had been downloaded before: offline, the client takes it from its cache."""
    folder = Path(constants.HF_HUB_CACHE) / f"{kind}--{repo.replace('/', '--')}" / "snapshots" / COMMIT
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(card, "utf-8")
    return repo


@pytest.mark.parametrize(
    ("front", "found"),
    [
        ("license: mit", ("mit", None, None)),
        ("license: [apache-2.0, mit]", ("apache-2.0", None, None)),
        ("license: other\nlicense_name: gemma\nlicense_link: a://b", ("other", "gemma", "a://b")),
        ("license: other\nlicense_name: 2\nlicense_link: 2024-01-01://b", ("other", "2", "2024-01-01://b")),
        ("tags: [a]", (UNKNOWN, None, None)),
        ("license: []", (UNKNOWN, None, None)),
        ("license: [", (UNKNOWN, None, None)),
    ],
)
def test_what_the_card_says(front: str, found: tuple[str, str | None, str | None]) -> None:
    repo = cached_card(f"someone/card-{abs(hash(front))}", f"---\n{front}\n---\n# A model\n")
    licence = licence_of(repo, COMMIT)
    assert (licence.id, licence.name, licence.link) == found and repo in licence.note
    assert ("Inherited" in licence.note) == (found[0] != UNKNOWN)


@pytest.mark.parametrize(("kind", "folder"), [("model", ""), ("dataset", "datasets/")])
def test_a_licence_that_is_a_file_over_there_is_found_from_here(kind: str, folder: str) -> None:
    repo = cached_card(f"someone/file-{kind}", "---\nlicense: other\nlicense_link: LICENSE\n---\n", kind=f"{kind}s")
    link = licence_of(repo, COMMIT, kind).link
    assert link == f"{constants.ENDPOINT}/{folder}{repo}/blob/{COMMIT}/LICENSE"


def test_a_data_set_has_its_own_card() -> None:
    repo = cached_card("someone/both", "---\nlicense: cc0-1.0\n---\n", kind="datasets")
    assert licence_of(repo, COMMIT, kind="dataset").id == "cc0-1.0" and licence_of(repo, COMMIT).id == UNKNOWN


@pytest.mark.parametrize("repo", ["someone/never-downloaded", "not a repository"])
def test_what_cannot_be_asked_is_unknown(repo: str) -> None:
    licence = licence_of(repo, COMMIT)
    assert licence.id == UNKNOWN and "look at its terms" in licence.note
    assert licence_of_local("my-folder").id == UNKNOWN
